"""What several test files use: where shared data may lie, and one small exported model."""

import os
import signal
from pathlib import Path
from typing import NamedTuple

import pytest
from commands import run_export

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory) -> None:
    """What the runtime keeps for a user goes to a folder of the tests."""
    os.environ["DSMAP_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> None:
    """A shell starts what runs in the background with Ctrl-C ignored, and every process from there inherits that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data beside the checkout (or $DSMAP_SHARED); the test is skipped without it."""
    folder = Path(os.environ.get("DSMAP_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip("no shared data beside this checkout")
    return folder


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
def tiny_bundle(tiny_model, tmp_path_factory) -> Path:
    """`tiny_model` as a bundle. Tests that change it copy it first."""
    from dsmap.export.bundle_writer import write_bundle
    from dsmap.export.trained_model import TrainedModel
    from dsmap.training.style_statistics import StyleStatistics

    styles = {
        "summer": StyleStatistics([0.5, -0.25, 0.0], [1.0, 1.0, 1.0], 7),
        "winter": StyleStatistics([-0.5, 0.75, 0.125], [0.5, 0.5, 0.5], 9),
    }
    source = TrainedModel(tiny_model, 64, styles, {"summer": [], "winter": []}, {"kind": "test"})
    out = tmp_path_factory.mktemp("models") / "tiny"
    write_bundle(source, out, licence="CC0")
    return out


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> Path:
    """trainA and trainB with three generated images each."""
    from dsmap.common.images import write_rgb
    from dsmap.export.verify import generated_images

    folder = tmp_path_factory.mktemp("pictures")
    for side, seed in (("A", 0), ("B", 1)):
        (folder / f"train{side}").mkdir()
        for i, image_rgb in enumerate(generated_images(80, 3, seed)):
            write_rgb(folder / f"train{side}" / f"{i}.png", image_rgb)
    return folder


@pytest.fixture(scope="session")
def checkpoint(image_folder, tmp_path_factory) -> Path:
    """A run of two steps."""
    from dsmap.config import load_train_config
    from dsmap.training.datasets import find_domains
    from dsmap.training.trainer import Trainer

    config = load_train_config(
        "debug", None, ["steps=2", "seed=5", "model.pad_type=zero"], model={"domains": ["summer", "winter"]}
    )
    out = tmp_path_factory.mktemp("runs") / "run"
    Trainer(config, find_domains(image_folder, names=("summer", "winter")), out).train()
    return out


class Exported(NamedTuple):
    """What `dsmap-export` said, and the bundle it wrote."""

    stdout: str
    folder: Path


@pytest.fixture(scope="session")
def exported(checkpoint, tmp_path_factory) -> Exported:
    """The run, exported in every precision."""
    cwd = tmp_path_factory.mktemp("exported")
    done = run_export(
        checkpoint, "-o", "winter-model", "--licence", "CC0", "--fp16", "--int8", "--report", "r.json", cwd=cwd
    )
    assert done.returncode == 0, done.stderr
    return Exported(done.stdout, cwd / "winter-model")


@pytest.fixture(scope="module")
def torch_alone():
    """The networks are so small that threads cost more than they bring."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
