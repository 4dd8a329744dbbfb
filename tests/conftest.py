"""What several test files use: where shared data may lie, and one small exported model."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


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
    from dsmap.model import DSMAP, initialise_generators

    torch.manual_seed(3)
    model = DSMAP(
        ModelConfig(domains=("summer", "winter"), dim=4, n_res=1, mlp_dim=8, style_dim=3, pad_type="zero")
    ).eval()
    initialise_generators(model)
    return model


@pytest.fixture(scope="session")
def tiny_bundle(tiny_model, tmp_path_factory) -> Path:
    """`tiny_model` as a bundle. Tests that change it copy it first."""
    from dsmap.export.exporter import Source, export_bundle
    from dsmap.styles import StyleStatistics

    styles = {
        "summer": StyleStatistics([0.5, -0.25, 0.0], [1.0, 1.0, 1.0], 7),
        "winter": StyleStatistics([-0.5, 0.75, 0.125], [0.5, 0.5, 0.5], 9),
    }
    source = Source(tiny_model, 64, styles, {"summer": [], "winter": []}, {"kind": "test"})
    out = tmp_path_factory.mktemp("models") / "tiny"
    export_bundle(source, out, licence="CC0")
    return out
