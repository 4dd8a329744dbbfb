"""Tiny trainings: their images, settings and commands, and what is compared of them."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from typer.testing import CliRunner

from dsmap.common.images import write_rgb
from dsmap.config import load_train_config
from dsmap.model.feature_networks import FeatureNetwork
from dsmap.tools.train import app
from dsmap.training.data import Batch, UnpairedBatches
from dsmap.training.datasets import find_domains
from dsmap.training.trainer import Trainer

WEIGHT_FILES = ("generators", "ema", "discriminators", "optimizers")


def make_images(folder, colour, count=5):
    folder.mkdir(parents=True)
    for i in range(count):
        small = np.random.default_rng(i).integers(-60, 60, (4, 5, 3)) + np.array(colour)
        image_rgb = cv2.resize(small.clip(0, 255).astype(np.uint8), (90, 72), interpolation=cv2.INTER_CUBIC)
        write_rgb(folder / f"{i:02}.png", image_rgb)


def copy_of(data, folder):
    """The training images alone: samples are then made of them."""
    for part in ("trainA", "trainB"):
        (folder / part).mkdir(parents=True)
        for path in (data / part).iterdir():
            (folder / part / path.name).write_bytes(path.read_bytes())
    return folder


def settings(*overrides, **fields):
    return load_train_config("debug", None, overrides, **fields)


def trainer_in(run, data, *overrides, resume=None, **fields):
    """A trainer that reads images itself unless told otherwise: starting readers takes longer than a tiny training."""
    config = settings("data.workers=0", *overrides, **fields)
    said = []
    trainer = Trainer(config, find_domains(data, names=config.model.domains), run, resume=resume, say=said.append)
    trainer.said = said
    return trainer


def train(*arguments):
    """dsmap-train in this process: (exit code, stdout, stderr)."""
    result = CliRunner().invoke(app, ["--preset", "debug", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


def start(*arguments, **environment):
    """dsmap-train as a process of its own, in a session of its own."""
    command = [sys.executable, "-m", "dsmap.tools.train", "--preset", "debug", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, **environment},
    )  # fmt: skip


def read_log(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def batch_of(trainer, step=0):
    return UnpairedBatches.of(trainer.domains, trainer.config.data, trainer.config.seed)[step]


def assert_same_checkpoints(one, other):
    for name in WEIGHT_FILES:
        first, second = (load_file(path / f"{name}.safetensors") for path in (one, other))
        assert first.keys() == second.keys()
        assert [key for key in first if not torch.equal(first[key], second[key])] == [], name


# Further training of generators, by dsmap-polish and dsmap-distill.


def image(seed: int, side: int = 96) -> torch.Tensor:
    """Soft colours with grain, (1, 3, side, side)."""
    generator = torch.Generator().manual_seed(seed)
    soft = torch.rand(1, 3, 6, 6, generator=generator) * 1.6 - 0.8
    grain = 0.03 * torch.randn(1, 3, side, side, generator=generator)
    return (F.interpolate(soft, (side, side), mode="bilinear") + grain).clamp(-1, 1)


class Colours(FeatureNetwork):
    """Three maps, each brighter where one colour is."""

    tap_dims = (1, 1, 1)

    def taps(self, x_nchw):
        return [x_nchw[:, i : i + 1] + 1 for i in range(3)]


def batches_of(a, b):
    def batches(start, stop):
        for step in range(start, stop):
            yield Batch(step, a(step), b(step), (), (), ())

    return batches


SMALL = {"patch": 2, "n_downsample": 0, "upsampling": "shuffle", "pad_type": "zero"}


MEANS = {"a": [0.0] * 8, "b": [0.1] * 8}


def means(model):
    return {domain: style[: model.config.style_dim] for domain, style in MEANS.items()}
