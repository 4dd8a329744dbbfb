"""Adjustments of the output at export: sharpness, contrast and margin."""

import numpy as np
import pytest
import torch
from commands import call

from dsmap.config import ModelConfig
from dsmap.errors import InputError
from dsmap.export.trained_model import open_checkpoint
from dsmap.export.verify import generated_images
from dsmap.runtime import Translator
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.tools import export
from dsmap.training.output_adjustments import OutputAdjustments, parse_contrast


def test_adjustments_are_in_the_graphs(checkpoint, tmp_path):
    given = "--sharpen", "0.3", "--contrast", "1.1", "--contrast", "winter:1.3", "--margin", "8"
    code, _, err = call(export, checkpoint, "-o", tmp_path / "b", *given)
    assert code == 0, err
    manifest = Bundle.read(tmp_path / "b").manifest
    assert manifest.architecture["contrast"] == [1.1, 1.3]
    assert manifest.architecture["sharpen"] == 0.3
    assert manifest.architecture["margin"] == 8
    source = open_checkpoint(checkpoint, adjustments=OutputAdjustments(0.3, {None: 1.1, "winter": 1.3}, 8))
    as_trained = open_checkpoint(checkpoint)
    image = generated_images(64, 1, 9)[0]
    x_nchw = torch.from_numpy(image.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    style = torch.tensor(source.styles["winter"].mean)[None]
    with torch.no_grad():
        expected, plain = (
            (of.model.translate(x_nchw, "summer", "winter", style)[0].permute(1, 2, 0).numpy() + 1) * 127.5
            for of in (source, as_trained)
        )
    found = Translator.load(tmp_path / "b", domain="winter", precision="fp32")(image)
    assert np.abs(found - expected).max() <= 1
    assert np.abs(expected - plain).mean() > 2


@pytest.mark.parametrize(
    ("given", "fact"),
    [
        (("--contrast", "0.5"), "contrast"),
        (("--contrast", "much"), "--contrast 'much' is not a number"),
        (("--contrast", "autumn:1.1"), "--contrast names a domain 'autumn'"),
        (("--sharpen", "3"), "sharpen"),
        (("--margin", "5"), "must be a multiple of 8 pixels, got 5"),
    ],
)
def test_values_out_of_range_are_refused(given, fact, checkpoint, tmp_path):
    code, _, err = call(export, checkpoint, "-o", tmp_path / "b", *given)
    assert (code, len(err.splitlines())) == (2, 2)
    assert fact in err
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("flag", ["--sharpen", "--contrast", "--margin"])
def test_a_bundle_is_not_adjusted_again(flag, tiny_bundle):
    code, _, err = call(export, tiny_bundle, flag, "2", "--engine", "rtx")
    assert code == 2
    assert flag in err


def test_contrast_is_of_the_tanh():
    with pytest.raises(ValueError, match=r"model\.contrast needs model\.output tanh"):
        ModelConfig(output="clip", contrast=(1.0, 1.1))
    assert parse_contrast(["1.2", "winter:1.3"]) == {None: 1.2, "winter": 1.3}
    assert OutputAdjustments().apply(ModelConfig()) == ModelConfig()
    for wrong in (["1.2", "1.3"], ["winter:1", "winter:1.1"]):
        with pytest.raises(InputError):
            parse_contrast(wrong)
    with pytest.raises(InputError):
        OutputAdjustments(contrast={"dusk": 1.1}).apply(ModelConfig())
