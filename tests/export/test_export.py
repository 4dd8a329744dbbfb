"""Checkpoint to bundle: the command, what it refuses, and that a graph that is off is found."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from commands import call, run_export

from dsmap.config import ModelConfig
from dsmap.errors import DsmapError, InputError
from dsmap.export import bundle_writer
from dsmap.export.bundle_folder import check_bundle_folder
from dsmap.export.bundle_writer import write_bundle
from dsmap.export.graphs import from_frames, graphs, to_frames, write_graph
from dsmap.export.rewrites import Rewrites
from dsmap.export.trained_model import open_checkpoint
from dsmap.export.verify import generated_images, verify_graphs
from dsmap.model.dsmap import DSMAP, initialise_generators
from dsmap.runtime import Translator
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.tools import export


def test_the_command_makes_a_bundle_the_runtime_takes(checkpoint, image_folder, exported, tmp_path):
    folder = exported.folder
    assert "next: dsmap-video INPUT --model winter-model --domain winter" in exported.stdout
    lines = exported.stdout.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("each direction: "))
    assert len(lines[first:]) <= 10, lines[first:]
    for start in (
        "float32 against torch: ",
        "fp16 against float32: ",
        "int8 against float32: ",
        "saved as winter-model",
    ):
        assert sum(line.startswith(start) for line in lines) == 1, lines
    bundle = Bundle.read(folder)
    manifest = bundle.manifest
    assert manifest.provenance["kind"] == "dsmap-train"
    assert manifest.provenance["step"] == 2
    assert manifest.provenance["training"]["seed"] == 5
    assert manifest.verification["origin"] == "real"
    assert manifest.styles["summer"].pictures == 3
    text = json.dumps(manifest.model_dump(mode="json"))
    assert not any(str(path) in text for path in (tmp_path, image_folder, checkpoint, folder.parent))

    # No loose weights, and the averaged generators are what was exported.
    for file in manifest.files():
        model = onnx.load(bundle.path(file), load_external_data=False)
        onnx.checker.check_model(model, full_check=True)
        assert not any(tensor.external_data for tensor in model.graph.initializer)
    source = open_checkpoint(checkpoint)
    image = generated_images(64, 1, 9)[0]
    x_nchw = torch.from_numpy(image.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    style = torch.tensor(source.styles["winter"].mean)[None]
    with torch.no_grad():
        expected = source.model.translate(x_nchw, "summer", "winter", style)[0].permute(1, 2, 0).numpy()
    out = Translator.load(folder, domain="winter", precision="fp32")(image)
    assert np.abs(out - (expected + 1) * 127.5).max() <= 1


def test_a_weights_file_of_a_checkpoint(checkpoint):
    """A .safetensors file says which weights are meant."""
    folder = open_checkpoint(checkpoint).provenance["weights_sha256"]
    newest = sorted((checkpoint / "checkpoints").iterdir())[-1]
    ema, live = (open_checkpoint(newest / f"{name}.safetensors").provenance for name in ("ema", "generators"))
    assert (ema["weights"], ema["weights_sha256"]) == ("ema", folder)
    assert live["weights"] == "generators"
    assert live["weights_sha256"] != folder
    with pytest.raises(InputError, match="holds no generators"):
        open_checkpoint(newest / "discriminators.safetensors")


def test_a_checkpoint_of_a_newer_format(checkpoint, tmp_path):
    newest = sorted((checkpoint / "checkpoints").iterdir())[-1]
    copy = Path(shutil.copytree(newest, tmp_path / "copy"))
    told = json.loads((copy / "training.json").read_text())
    (copy / "training.json").write_text(json.dumps(told | {"format_version": 99}))
    with pytest.raises(InputError, match="has checkpoint format 99; this dsmap reads up to") as caught:
        open_checkpoint(copy)
    assert caught.value.advice == "Update dsmap."


def test_existing_output_is_kept(checkpoint, tmp_path):
    source = open_checkpoint(checkpoint)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="is not a bundle"):
            write_bundle(source, tmp_path / "mine", overwrite=overwrite)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    with pytest.raises(InputError, match=r"no does not exist"):
        write_bundle(source, tmp_path / "no" / "such")


def test_refuses_a_bundle_that_is_there(tiny_bundle, tiny_model, checkpoint):
    before = (tiny_bundle / "bundle.json").read_text()
    with pytest.raises(InputError) as caught:
        write_bundle(open_checkpoint(checkpoint), tiny_bundle)
    assert "--overwrite" in caught.value.advice
    assert (tiny_bundle / "bundle.json").read_text() == before


@pytest.mark.usefixtures("from_exported")
def test_a_file_that_is_not_of_the_bundle_is_never_deleted(checkpoint, tiny_bundle, tmp_path):
    mine = Path(shutil.copytree(tiny_bundle, tmp_path / "mine"))
    (mine / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt"):
        write_bundle(open_checkpoint(checkpoint), mine, overwrite=True)
    assert (mine / "notes.txt").read_text() == "mine"
    (mine / "notes.txt").unlink()
    write_bundle(open_checkpoint(checkpoint), mine, overwrite=True)
    assert Bundle.read(mine).manifest.provenance["kind"] == "dsmap-train"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.usefixtures("from_exported")
def test_two_exports_to_one_folder_share_nothing(checkpoint, tmp_path):
    """The second is done while the first is at work. The first keeps what it has made, beside."""
    source, done = open_checkpoint(checkpoint), []

    def say(_line: str) -> None:
        if not done:
            done.append(True)
            write_bundle(source, tmp_path / "m", licence="second")

    with pytest.raises(DsmapError, match=r"could not be named .*m exists") as caught:
        write_bundle(source, tmp_path / "m", licence="first", say=say)
    assert caught.value.advice == f"It is complete, and is kept as {tmp_path / 'm-2'}."
    assert [Bundle.read(tmp_path / name).manifest.licence for name in ("m", "m-2")] == ["second", "first"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "m-2"]


@pytest.mark.parametrize(
    "foreign", ["thesis.onnx", "decoder.winter.onnx/", "engines/notes.txt", "engines->", "bundle->"]
)
def test_only_what_a_bundle_names_goes_with_it(tiny_bundle, tmp_path, foreign):
    mine, precious = Path(shutil.copytree(tiny_bundle, tmp_path / "mine")), tmp_path / "precious"
    precious.mkdir()
    (precious / "x.engine").write_text("precious")
    if foreign == "bundle->":
        shutil.move(mine / "bundle.json", precious / "bundle.json")
        (mine / "bundle.json").symlink_to(precious / "bundle.json")
    elif foreign == "engines->":
        (mine / "engines").symlink_to(precious)
    elif foreign.endswith("/"):
        (mine / foreign.rstrip("/")).unlink()
        (mine / foreign).mkdir()
    else:
        (mine / foreign).parent.mkdir(exist_ok=True)
        (mine / foreign).write_text("precious")
    with pytest.raises(InputError, match="which is not part of the bundle"):
        check_bundle_folder(mine, overwrite=True)
    assert (precious / "x.engine").read_text() == "precious"


@pytest.mark.usefixtures("from_exported")
def test_a_link_to_a_bundle_stays_one(checkpoint, tiny_bundle, tmp_path):
    there = Path(shutil.copytree(tiny_bundle, tmp_path / "there" / "model"))
    (tmp_path / "link").symlink_to(there)
    write_bundle(open_checkpoint(checkpoint), tmp_path / "link", licence="new", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert Bundle.read(there).manifest.licence == "new"
    assert [path.name for path in there.parent.iterdir()] == ["model"]


@pytest.fixture(scope="module")
def files(tiny_model, tiny_bundle) -> dict[tuple[str, str], Path]:
    return {(graph.component, graph.domain): tiny_bundle / graph.file_name for graph in graphs(tiny_model)}


def test_dynamic_sizes_have_names(files):
    model = onnx.load(files["content_encoder", "summer"])
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
              for v in [*model.graph.input, *model.graph.output]}  # fmt: skip
    assert shapes == {"frames": ["n", "8*h", "8*w", 3], "content": ["n", 16, "h", "w"], "skip": ["n", 16, "2*h", "2*w"]}


def test_a_graph_of_other_weights_is_found(tiny_model, files):
    """Each component in turn is swapped for the same network with one weight moved: the check names it."""
    images = {d: generated_images(64, 1, i) for i, d in enumerate(tiny_model.domains)}
    assert verify_graphs(tiny_model, files, images, "generated").images == 2
    moved = DSMAP(tiny_model.config).eval()
    moved.load_state_dict(tiny_model.state_dict())
    with torch.no_grad():
        moved.mappings["b"].down.weight[0, 0, 0, 0] += 0.05
    with pytest.raises(DsmapError, match="winter"):
        verify_graphs(moved, files, images, "generated")


def test_a_failed_check_leaves_nothing(checkpoint, exported, tmp_path, monkeypatch):
    """The graphs are those of the other domain."""
    others = {"summer": "winter", "winter": "summer"}

    def wrong(graph, path, _templates=None):
        shutil.copy(exported.folder / f"{graph.component}.{others[graph.domain]}.onnx", path)

    monkeypatch.setattr(bundle_writer, "write_graph", wrong)
    with pytest.raises(DsmapError, match="differs from torch"):
        write_bundle(open_checkpoint(checkpoint), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["gone", "-o", "b"], "gone does not exist"),
        (["pictures.pt", "-o", "b"], "--official"),
        ([".", "-o", "b"], "no checkpoint"),
        (["gone.pt", "--official", "gone.yaml", "-o", "b"], "gone.yaml"),
        (["gone.pt", "--official", "gone.yaml", "--domains", "a", "-o", "b"], "--domains"),
        (["gone", "-o", "b", "--card", "gone.md"], "gone.md"),
    ],
)
def test_bad_input_is_explained(tmp_path, monkeypatch, arguments, text):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(export, *arguments)
    assert code == 2
    assert text in err
    assert not (tmp_path / "b").exists()


def test_official_checkpoint(shared, tmp_path):
    """The authors' checkpoint comes out with the authors' images."""
    golden = shared / "golden" / "tiny_zero_pad"
    code, out, err = call(
        export, golden / "gen_00000001.pt", "--official", golden / "config.yaml", "--domains", "summer,winter",
        "-o", tmp_path / "bundle", "--without", "upsampling",
    )  # fmt: skip
    assert code == 0, err
    assert Bundle.read(tmp_path / "bundle").manifest.provenance["rewrites"] == ["scaling"]
    assert "generated images" in out
    with np.load(golden / "tensors.npz") as arrays:
        frame, style = (
            ((arrays[name][0].transpose(1, 2, 0) + 1) * 127.5).round().astype(np.uint8) for name in ("x_a", "x_b")
        )
        expected = (arrays["a_to_b_exemplar"][0].transpose(1, 2, 0) + 1) * 127.5
    out = Translator.load(tmp_path / "bundle", domain="winter", style=style)(frame)
    assert np.abs(out - expected).max() <= 0.51  # rounding


def test_an_unknown_rewrite_is_refused(checkpoint, tmp_path):
    done = run_export(checkpoint, "-o", "x", "--without", "norms", cwd=tmp_path)
    assert done.returncode == 2
    assert "Known rewrites: upsampling, tail, scaling." in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("output", ["tanh", "clip"])
def test_a_network_that_handles_blocks_of_pixels(output, tmp_path):
    """From frames to frames, in ONNX Runtime, at the smallest size and others."""
    torch.manual_seed(1)
    shape = {"patch": 2, "n_downsample": 0, "upsampling": "shuffle", "pad_type": "zero", "output": output}
    model = DSMAP(ModelConfig(dim=6, n_res=1, mlp_dim=8, style_dim=3, **shape)).eval()
    initialise_generators(model)
    torch.nn.init.normal_(model.decoders["b"].tail.weight, std=0.3)  # or the pixels of a block would be alike
    wanted, sessions = {("content_encoder", "a"), ("mapping", "b"), ("decoder", "b")}, {}
    for graph in graphs(model):
        if (graph.component, graph.domain) in wanted:
            write_graph(graph, tmp_path / graph.file_name)
            sessions[graph.component] = onnxruntime.InferenceSession(str(tmp_path / graph.file_name))
    for n, height, width in ((1, 8, 8), (2, 8, 20), (1, 36, 28)):
        frames = np.random.default_rng(0).integers(0, 256, (n, height, width, 3), dtype=np.uint8)
        with torch.no_grad():
            style = torch.randn(n, 3)
            params = model.style_mlps["b"](style)
            expected = to_frames(model.translate(from_frames(torch.from_numpy(frames)), "a", "b", style)).numpy()
        content, skip = sessions["content_encoder"].run(None, {"frames": frames})
        (mapped,) = sessions["mapping"].run(None, {"content": content, "skip": skip})
        (out,) = sessions["decoder"].run(None, {"mapped": mapped, "style_params": params.numpy()})
        assert out.shape == expected.shape
        assert np.abs(out - expected.astype(int)).max() <= 1
        assert expected.std() > 5
        if output == "clip":
            assert {0, 255} <= set(np.unique(expected))


@pytest.mark.parametrize("rewrites", [Rewrites(), Rewrites(False, False, False)])
def test_a_decoder_with_reflected_borders(rewrites, tmp_path):
    """The padding whose borders are written out; at the smallest size and others, in ONNX Runtime."""
    torch.manual_seed(1)
    model = DSMAP(ModelConfig(dim=4, n_res=1, mlp_dim=8, style_dim=3, pad_type="reflect")).eval()
    initialise_generators(model)
    decoder = next(g for g in graphs(model, rewrites) if (g.component, g.domain) == ("decoder", "b"))
    write_graph(decoder, tmp_path / "decoder.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "decoder.onnx"))
    for n, h, w in ((1, 2, 2), (2, 2, 7), (1, 9, 5)):
        mapped = torch.randn(n, 16, h, w)
        with torch.no_grad():
            params = model.style_mlps["b"](torch.randn(n, 3))
            expected = to_frames(model.decoders["b"](mapped, params)).numpy().astype(int)
        (out,) = session.run(None, {"mapped": mapped.numpy(), "style_params": params.numpy()})
        assert out.shape == (n, 8 * h, 8 * w, 3)
        assert np.abs(out - expected).max() <= 1
        assert (out != expected).mean() < 0.01  # nearly all equal: rounding alone differs
        assert expected.std() > 5
