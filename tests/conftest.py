"""Fixtures that several test files share: where shared data may lie, and one small exported model."""

import contextlib
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from commands import call
from filelock import FileLock

ROOT = Path(__file__).parents[1]


LONGEST = [
    "runtime/cluster/test_on_ray.py",
    "training/test_checkpoint_safety.py",
    "common/test_distributed.py",
    "runtime/web/test_offline.py",
    "runtime/live/test_stopping.py",
    "runtime/engines/test_engines.py",
    "export/test_export.py",
    "export/test_bundle_to_torch.py",
    "export/test_import_munit.py",
    "tools/test_eval_model.py",
    "runtime/serve/test_serve_api.py",
    "runtime/web/test_webgpu.py",
    "test_examples.py",
    "test_crashes.py",
    "runtime/serve/test_live_page.py",
    "runtime/serve/test_serve_attacks.py",
    "export/test_import.py",
    "export/test_precisions.py",
    "runtime/served_models/test_triton_server.py",
    "runtime/backends/test_triton.py",
    "runtime/web/test_translation.py",
    "runtime/web/test_camera.py",
    "tools/test_doctor.py",
    "test_architecture.py",
    "training/test_training.py",
    "training/test_golden.py",
    "training/test_readers.py",
    "tools/test_gpu_check.py",
    "tools/test_bench_model.py",
    "export/test_output_adjustments.py",
    "runtime/jobs/test_video_batch.py",
    "runtime/jobs/test_segments.py",
    "tools/test_video_cli.py",
    "training/test_polish.py",
]
"""Files that take more than 10 seconds, in the order in which they begin, so that no worker idles at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first. `make test` has pytest-xdist keep this order."""
    turns = {ROOT / "tests" / name: number for number, name in enumerate(LONGEST)}
    if gone := [str(path) for path in turns if not path.exists()]:
        raise pytest.UsageError(f"tests/conftest.py names files that are gone: {', '.join(gone)}")
    items.sort(key=lambda item: turns.get(item.path, len(LONGEST)))


@pytest.fixture(autouse=True)
def priorities_stay():
    """Tests that make AV1 with PyAV alone leave no real-time priority to those after them."""
    from dsmap.runtime.system.scheduling import usual_priority

    with usual_priority():
        yield


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory) -> None:
    """What the runtime keeps for a user goes to a folder of the tests."""
    os.environ["DSMAP_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def _signals_are_heard() -> None:
    """A shell starts what runs in the background with Ctrl-C ignored, nohup with SIGHUP: all that it starts, too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data beside the checkout (or $DSMAP_SHARED); the test is skipped without it."""
    folder = Path(os.environ.get("DSMAP_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip("no shared data beside this checkout")
    return folder


def shared_base(tmp_path_factory) -> Path:
    """The folder of this run of the tests that all workers of pytest-xdist share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Makes a folder once for all workers of pytest-xdist: `made_once(name, make)`; `make` gets the empty folder."""
    root = shared_base(tmp_path_factory)

    def get(name: str, make: Callable[[Path], None]) -> Path:
        folder = root / f"once-{name}"
        with FileLock(root / f"{name}.lock"):
            if not (folder / "done").exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
                (folder / name).mkdir(parents=True)
                make(folder / name)
                (folder / "done").touch()
        return folder / name

    return get


@pytest.fixture(scope="session")
def tiny_model():
    """A DSMAP with random weights that exports in seconds: summer and winter, width 4, zero padding."""
    import torch

    from dsmap.config import ModelConfig
    from dsmap.model.dsmap import DSMAP, initialise_generators

    torch.manual_seed(3)
    model = DSMAP(
        ModelConfig(domains=("summer", "winter"), dim=4, n_res=1, mlp_dim=8, style_dim=3, pad_type="zero")
    ).eval()
    initialise_generators(model)
    return model


@pytest.fixture(scope="session")
def traces(tmp_path_factory) -> Path:
    """Where this process finds and keeps traced graphs of its exports: see `traced_graphs`."""
    from traced_graphs import keep_traces

    folder = shared_base(tmp_path_factory) / "traces"
    folder.mkdir(exist_ok=True)
    keep_traces(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tiny_model, made_once, traces) -> Path:
    """`tiny_model` as a bundle. Tests that change it copy it first."""
    from dsmap.export.bundle_writer import write_bundle
    from dsmap.export.trained_model import TrainedModel
    from dsmap.training.style_statistics import StyleStatistics

    styles = {
        "summer": StyleStatistics([0.5, -0.25, 0.0], [1.0, 1.0, 1.0], 7),
        "winter": StyleStatistics([-0.5, 0.75, 0.125], [0.5, 0.5, 0.5], 9),
    }
    source = TrainedModel(tiny_model, 64, styles, {"summer": [], "winter": []}, {"kind": "test"})
    return made_once("models", lambda folder: write_bundle(source, folder / "tiny", licence="CC0")) / "tiny"


@pytest.fixture(scope="module")
def triton_server(request, tmp_path_factory):
    """A real Triton server of `tiny_bundle`, as the models `tiny` and `tiny-stabilised`: see `tritonserver`."""
    import tritonserver

    from dsmap.export.triton import TritonRequest, write_triton_models

    if why := tritonserver.missing():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("triton")
    bundle = request.getfixturevalue("tiny_bundle")
    write_triton_models(TritonRequest(bundle=bundle, repository=folder / "models"))
    options = ("--model-control-mode", "poll", "--repository-poll-secs", "1")
    with tritonserver.TritonServer(folder / "models", folder / "log", *options) as server:
        yield server


@pytest.fixture(scope="session")
def image_folder(made_once) -> Path:
    """trainA and trainB with three generated images each."""
    from dsmap.common.images import write_rgb
    from dsmap.export.verify import generated_images

    def make(folder: Path) -> None:
        for side, seed in (("A", 0), ("B", 1)):
            (folder / f"train{side}").mkdir()
            for i, image_rgb in enumerate(generated_images(80, 3, seed)):
                write_rgb(folder / f"train{side}" / f"{i}.png", image_rgb)

    return made_once("pictures", make)


@pytest.fixture(scope="session")
def long_clip(made_once) -> Path:
    """5000 small frames in 17 seconds: for jobs that must still be under way when something happens to them."""
    from clips import make_clip

    def make(folder: Path) -> None:
        make_clip(folder / "long.mp4", frames=5000, pts=range(0, 500_000, 100))

    return made_once("long-clip", make) / "long.mp4"


@pytest.fixture(scope="session")
def checkpoint(image_folder, made_once) -> Path:
    """A run of two steps."""
    from dsmap.config import load_train_config
    from dsmap.training.datasets import find_domains
    from dsmap.training.trainer import Trainer

    config = load_train_config(
        "debug", None, ["steps=2", "seed=5", "model.pad_type=zero"], model={"domains": ["summer", "winter"]}
    )
    domains = find_domains(image_folder, names=("summer", "winter"))
    return made_once("runs", lambda folder: Trainer(config, domains, folder / "run").train()) / "run"


class Exported(NamedTuple):
    """What `dsmap-export` said, and the bundle it wrote."""

    stdout: str
    folder: Path


@pytest.fixture(scope="session")
def exported(checkpoint, image_folder, made_once, traces) -> Exported:
    """The run, exported in every precision, with all that a card can have."""
    from dsmap.tools import export

    options = ["-o", "winter-model", "--licence", "CC0", "--fp16", "--int8", "--report", "r.json"]
    options += ["--dataset", "some/data", "--sample", f"summer={image_folder / 'trainA' / '0.png'}"]

    def make(folder: Path) -> None:
        with contextlib.chdir(folder):
            code, out, err = call(export, checkpoint, *options)
        assert code == 0, err
        (folder / "stdout.txt").write_text(out)

    folder = made_once("exported", make)
    return Exported((folder / "stdout.txt").read_text(), folder / "winter-model")


@pytest.fixture(scope="module")
def torch_alone():
    """The networks are so small that threads cost more than they bring."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
