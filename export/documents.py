"""The documents of a bundle: README.md, and pictures with their translations that it shows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dsmap.common.images import read_rgb, write_rgb
from dsmap.export.samples import SampleImage
from dsmap.export.verify import torch_parts
from dsmap.model.any_model import AnyModel
from dsmap.runtime.bundle.bundle import Manifest, describe_file
from dsmap.runtime.bundle.card import CARD, SAMPLES, CardSample, split_card, write_card

_MAX_SIDE = 512


def write_documents(
    folder: Path, manifest: Manifest, model: AnyModel, samples: Sequence[SampleImage], head: Mapping[str, Any]
) -> Manifest:
    """Writes README.md and the samples into the bundle `folder`; gives the manifest that names them.

    `head`: what the maker's own card has in its head. Pictures are written anew: no position or name of the camera
    goes with them.
    """
    shown = []
    for number, sample in enumerate(samples, start=1):
        picture, translation = f"{SAMPLES}/{number}.jpg", f"{SAMPLES}/{number}-translated.jpg"
        (folder / SAMPLES).mkdir(exist_ok=True)
        image_rgb = _fit(read_rgb(sample.image), manifest.sizes.trained_at, manifest.sizes.multiple_of)
        target = manifest.source_of(sample.domain)
        write_rgb(folder / picture, image_rgb)
        style = np.array([manifest.styles[target].mean], np.float32)
        write_rgb(folder / translation, _translate(model, image_rgb, sample.domain, target, style))
        shown.append(CardSample(sample.domain, target, picture, translation))
    return write_readme(folder, manifest, shown, head)


def write_readme(folder: Path, manifest: Manifest, samples: Sequence[CardSample], head: Mapping[str, Any]) -> Manifest:
    """Writes README.md alone; gives the manifest that names it and the samples."""
    (folder / CARD).write_text(write_card(manifest, samples, head), encoding="utf-8")
    paths = [folder / CARD, *(folder / path for one in samples for path in (one.image, one.translation))]
    return manifest.model_copy(update={"extras": [describe_file(folder, path) for path in paths]})


def body_and_head(card: str | None) -> tuple[str | None, dict[str, Any]]:
    """A maker's card without its head, and the head. Raises InputError as `split_card`."""
    if card is None:
        return None, {}
    head, body = split_card(card)
    return body, head


def _fit(image_rgb: npt.NDArray[np.uint8], side: int, multiple_of: int) -> npt.NDArray[np.uint8]:
    """Shrinks a picture to the model's size, and crops it to sides that the model takes."""
    height, width = image_rgb.shape[:2]
    factor = min(1.0, side / min(height, width), _MAX_SIDE / max(height, width))
    if factor < 1:
        size = (max(multiple_of, round(width * factor)), max(multiple_of, round(height * factor)))
        image_rgb = np.asarray(cv2.resize(image_rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    height, width = (length // multiple_of * multiple_of for length in image_rgb.shape[:2])
    return np.ascontiguousarray(image_rgb[:height, :width])


def _translate(
    model: AnyModel, image_rgb: npt.NDArray[np.uint8], source: str, target: str, style: npt.NDArray[np.float32]
) -> npt.NDArray[np.uint8]:
    parts = torch_parts(model)
    content, skip = parts.encode(image_rgb[None], source)
    return np.asarray(parts.decode(parts.map(content, skip, target), parts.style_params(style, target), target)[0])
