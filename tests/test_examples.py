"""The scripts in examples/, run as they stand."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import clips
import nbformat
import numpy as np
import pytest
import torch
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

from dsmap.common.images import write_rgb
from dsmap.errors import InputError

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *arguments: object, cwd: Path) -> str:
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two folders of small images, photos/summer and photos/winter."""
    noise = np.random.default_rng(0)
    for folder in ("summer", "winter"):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        for number in range(4):
            pixels = noise.integers(0, 256, (72, 72, 3), np.uint8)
            write_rgb(tmp_path / "photos" / folder / f"{number}.png", pixels)
    return tmp_path / "photos"


def test_translate_image(photos, tmp_path):
    run("translate_image.py", photos / "summer" / "0.png", "out", cwd=tmp_path)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "0-default.png", "0-fresh-snow.png", "0-seed7.png",
    ]  # fmt: skip


def test_translate_videos(tmp_path):
    (tmp_path / "clips").mkdir()
    clips.make_clip(tmp_path / "clips" / "a.mp4")
    clips.make_clip(tmp_path / "clips" / "b.mp4")
    assert "2 translated, 0 were there" in run("translate_videos.py", "clips", "results", cwd=tmp_path)
    assert "0 translated, 2 were there" in run("translate_videos.py", "clips", "results", cwd=tmp_path)
    assert len(list((tmp_path / "results").iterdir())) == 2


def test_translate_stream(tmp_path):
    clips.make_clip(tmp_path / "clip.mp4")
    said = run("translate_stream.py", "clip.mp4", "--frames", 3, "--height", 64, cwd=tmp_path)
    assert [line.partition(":")[0] for line in said.splitlines()] == ["frame 1", "frame 2", "frame 3"]


def test_train_and_export(photos, tmp_path):
    run("train_and_export.py", photos / "summer", photos / "winter", "out", "--steps", 2, cwd=tmp_path)
    assert (tmp_path / "out" / "translated.png").stat().st_size > 0
    assert (tmp_path / "out" / "model" / "bundle.json").is_file()


@pytest.fixture(scope="module")
def node():
    """The node, loaded as ComfyUI loads custom nodes: a folder, by its path."""
    name = "custom_nodes.dsmap"
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / "comfyui" / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (identifier,) = module.NODE_CLASS_MAPPINGS
    assert module.NODE_DISPLAY_NAME_MAPPINGS.keys() == {identifier}
    made = module.NODE_CLASS_MAPPINGS[identifier]()
    defaults = {name: given[1]["default"] for name, given in made.INPUT_TYPES()["required"].items() if len(given) > 1}
    assert list(made.INPUT_TYPES()["required"]) == ["image", *defaults]
    assert made.RETURN_TYPES == ("IMAGE",)

    def call(image, **changed):
        (result,) = getattr(made, made.FUNCTION)(image=image, **{**defaults, **changed})
        return result

    return call


def test_comfyui(node, tiny_bundle):
    """A batch of more than one chunk, as float tensors, is what a translator makes of its images."""
    from dsmap.runtime import Translator

    images = np.random.default_rng(0).integers(0, 256, (10, 33, 40, 3), np.uint8)
    batch = torch.from_numpy(images).to(torch.float32) / 255
    result = node(batch, model=str(tiny_bundle), style="seed:7")
    assert (result.dtype, result.shape, result.device.type) == (torch.float32, batch.shape, "cpu")
    with Translator.load(tiny_bundle, domain="winter", style=7) as translator:
        expected = np.stack([translator(image) for image in images])
    assert np.array_equal((result * 255).round().to(torch.uint8).numpy(), expected)
    assert torch.equal(batch, torch.from_numpy(images).to(torch.float32) / 255)  # the input stays
    with_alpha = torch.cat([batch[:1], torch.ones(1, 33, 40, 1)], dim=-1)
    assert torch.equal(node(with_alpha, model=str(tiny_bundle), style="seed:7"), result[:1])
    assert not torch.equal(node(batch[:1], model=str(tiny_bundle), style=""), result[:1])
    assert node(batch[:1].half(), model=str(tiny_bundle), height=16, strength=0.5).shape == batch[:1].shape
    with pytest.raises(InputError, match="autumn"):
        node(batch[:1], model=str(tiny_bundle), domain="autumn")


def test_notebook(tmp_path):
    """From its first cell to the last, in a kernel of this environment."""
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)  # stored without
    own_python = {"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "language": "python"}
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps({"display_name": "Python 3", **own_python}))
    manager = KernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(folder.parent)]))
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=120, km=manager, resources=resources).execute()
    shown = [kind for cell in notebook.cells for output in cell.get("outputs", ()) for kind in output.get("data", ())]
    assert shown.count("image/png") >= 3  # before and after, and the styles
    assert len(clips.read(tmp_path / "winter.mp4").times) == 24
    assert "embed" in notebook.cells[-2].source
    assert "<video" in notebook.cells[-2].outputs[0]["data"]["text/html"]


def test_every_example_is_run_here():
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in EXAMPLES.glob("*.py")} <= tested
