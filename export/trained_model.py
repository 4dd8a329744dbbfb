"""Opens checkpoints for export: generators, style statistics, images to check on, provenance."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dsmap.common.images import list_images
from dsmap.common.notify import Notify
from dsmap.config import TrainConfig
from dsmap.errors import InputError
from dsmap.export.named_styles import NamedStyle, check_domains
from dsmap.export.request import ExportRequest
from dsmap.export.verify import generated_images
from dsmap.model.any_model import AnyModel
from dsmap.model.authors_checkpoint import load_official, read_official_config
from dsmap.model.dsmap import is_finite
from dsmap.runtime.bundle.bundle import Sizes, file_sha256
from dsmap.training.checkpoint import best_checkpoint, load_generators, read_checkpoint
from dsmap.training.datasets import Domains, check_same_domains, default_style_images, find_domains
from dsmap.training.image_tensors import load_readable_nchw, to_rgb
from dsmap.training.output_adjustments import OutputAdjustments
from dsmap.training.style_statistics import StyleStatistics, prior_statistics, styles_by_domain

_WEIGHTS = ("ema", "generators")


class TrainedModel(NamedTuple):
    """Generators to export, with their statistics and origin."""

    model: AnyModel
    trained_at: int
    """Shorter side of the training images in pixels."""
    styles: dict[str, StyleStatistics]
    images: dict[str, list[Path]]
    """Images of each domain to check the graphs on; empty lists if there are none."""
    provenance: dict[str, Any]
    named_styles: Sequence[NamedStyle] = ()
    """Images whose styles get a name."""

    @property
    def sizes(self) -> Sizes:
        """Image sizes that the network takes, and the one that it was trained at."""
        config = self.model.config
        return Sizes(
            multiple_of=config.multiple_of,
            minimum=config.minimum_size,
            style_minimum=config.style_minimum_size,
            trained_at=self.trained_at,
        )


def open_model(request: ExportRequest, say: Notify = lambda _line: None) -> TrainedModel:
    """Opens the checkpoint of `request`. Raises as `open_checkpoint` and `open_official`."""
    if request.official_config is not None:
        names, domains = request.domain_names, None
        if request.data is not None or request.domain_folders:
            domains = find_domains(request.data, request.domain_folders, names=names or ("a", "b"))
            names = names or (domains.a.name, domains.b.name)
        return open_official(
            request.checkpoint,
            request.official_config,
            names or ("a", "b"),
            domains,
            request.named_styles,
            request.default_styles,
        )
    path = request.checkpoint
    if request.best:
        path = best_checkpoint(path).path
        say(f"best: {path}")
    return open_checkpoint(
        path,
        weights=request.weights,
        data=request.data,
        folders=request.domain_folders,
        named_styles=request.named_styles,
        adjustments=OutputAdjustments(request.sharpen, request.contrast, request.margin),
        default_styles=request.default_styles,
    )


def open_checkpoint(
    path: Path,
    weights: str = "ema",
    data: Path | None = None,
    folders: Sequence[tuple[str, Path]] = (),
    named_styles: Sequence[NamedStyle] = (),
    adjustments: OutputAdjustments | None = None,
    default_styles: Mapping[str, Path] | None = None,
) -> TrainedModel:
    """Opens a checkpoint of dsmap-train; `weights` is "ema" or "generators" (not averaged).

    `path` is a run, one of its checkpoints, or the ema.safetensors or generators.safetensors of one, which then decides
    about `weights`. `data` or `folders` (see `find_domains`) replace the images that the run was trained on.
    `default_styles` are folders of images by domain, whose mean styles become the default ones. Raises InputError for
    an unknown domain in `named_styles` or `default_styles`, and for `adjustments` out of range.
    """
    path, weights = _choose_weights(path, weights)
    checkpoint = read_checkpoint(path)
    network = (adjustments or OutputAdjustments()).apply(checkpoint.config.model)
    config = checkpoint.config.model_copy(update={"model": network})
    checkpoint = checkpoint._replace(config=config)
    check_domains(named_styles, network.domains)
    style_images = default_style_images(default_styles or {}, network.domains)
    model = load_generators(checkpoint, weights)
    if not is_finite(model):
        raise InputError(
            f"the weights {weights} of {checkpoint.path} are not finite: that training has failed",
            "Export an earlier checkpoint.",
        )
    images = {
        domain: [p for folder in map(Path, found) if folder.is_dir() for p in list_images(folder)]
        for domain, found in checkpoint.images.items()
    }
    if data is not None or folders:
        domains = find_domains(data, folders, names=network.domains)
        check_same_domains(domains, model.domains)
        style_images, images = {d.name: d.train for d in domains} | style_images, _check_images(domains)
    styles = checkpoint.styles | styles_by_domain(model, style_images, config.data.shorter_side)
    provenance = {
        "kind": "dsmap-train",
        "step": checkpoint.step,
        "weights": weights,
        "weights_sha256": file_sha256(checkpoint.path / f"{weights}.safetensors"),
        "training": _without_local_paths(config),
    }
    further = {"polished": checkpoint.polished, "distilled": checkpoint.distilled}
    provenance |= {name: settings for name, settings in further.items() if settings is not None}
    return TrainedModel(model, config.data.shorter_side, styles, images, provenance, named_styles)


def _choose_weights(path: Path, weights: str) -> tuple[Path, str]:
    if path.suffix != ".safetensors" or not path.is_file():
        return path, weights
    if path.stem not in _WEIGHTS:
        raise InputError(f"{path} holds no generators", f"Pass {' or '.join(_WEIGHTS)}.safetensors of a checkpoint.")
    return path.parent, path.stem


def open_official(
    path: Path,
    config_yaml: Path,
    names: tuple[str, str],
    domains: Domains | None = None,
    named_styles: Sequence[NamedStyle] = (),
    default_styles: Mapping[str, Path] | None = None,
) -> TrainedModel:
    """Opens a `gen_*.pt` by the authors' trainer.

    Such a file holds no style statistics: they come from the images of `domains`, otherwise from the prior N(0, I).
    `default_styles`: see `open_checkpoint`.
    """
    check_domains(named_styles, names)
    style_images = default_style_images(default_styles or {}, names)
    model = load_official(path, config_yaml, names)
    config = read_official_config(config_yaml)
    trained_at = config.get("new_size") or config.get("new_size_a") or config.get("crop_image_height") or 256
    if not isinstance(trained_at, int) or trained_at < model.config.multiple_of:
        raise InputError(f"{config_yaml}: new_size is {trained_at!r}, expected pixels", "Correct the YAML.")
    images: dict[str, list[Path]] = {name: [] for name in names}
    if domains is not None:
        style_images, images = {d.name: d.train for d in domains} | style_images, _check_images(domains)
    styles = {name: prior_statistics(model.config.style_dim) for name in names}
    styles |= styles_by_domain(model, style_images, trained_at)
    provenance = {"kind": "the authors' checkpoint", "file": Path(path).name, "weights_sha256": file_sha256(Path(path))}
    return TrainedModel(model, trained_at, styles, images, provenance, named_styles)


class CheckImages(NamedTuple):
    """Images to check graphs on, by domain: uint8 RGB (H, W, 3), in a size that the network takes."""

    by_domain: dict[str, list[npt.NDArray[np.uint8]]]
    origin: str
    """real, generated, or real and generated."""

    def __len__(self) -> int:
        return sum(map(len, self.by_domain.values()))


def pick_images(source: TrainedModel, count: int, *, at_least: int = 1, part: int = 0) -> CheckImages:
    """Up to `count` evenly picked images of each domain, resized to the training size.

    Generated ones are added up to `at_least`; if no image of a domain can be read, all are generated. Parts 0 and 1
    are different images where there are enough: calibration must not use the images of the check.
    """
    multiple = source.model.config.multiple_of
    size = max(source.trained_at // multiple * multiple, source.model.config.style_minimum_size)
    found: dict[str, list[npt.NDArray[np.uint8]]] = {}
    for domain, paths in source.images.items():
        picked = [paths[(2 * i + part) * len(paths) // (2 * count)] for i in range(count)] if paths else []
        # Training has already reported broken images.
        found[domain] = [to_rgb(x_nchw)[0] for x_nchw in load_readable_nchw(dict.fromkeys(picked), size, multiple)]
    if not all(found.values()):
        seeds = {domain: 2 * i + part for i, domain in enumerate(source.model.domains) if domain in found}
        return CheckImages({d: generated_images(size, count, seed) for d, seed in seeds.items()}, "generated")
    lacking = {domain: at_least - len(images) for domain, images in found.items() if len(images) < at_least}
    for domain, missing in lacking.items():
        found[domain] += generated_images(size, missing, part)
    return CheckImages(found, "real and generated" if lacking else "real")


def _check_images(domains: Domains) -> dict[str, list[Path]]:
    """Test images where there are any, else training images."""
    return {d.name: list(d.test or d.train) for d in domains}


def _without_local_paths(config: TrainConfig) -> dict[str, Any]:
    """The training configuration without paths of the machine that it ran on."""
    tree = config.model_dump(mode="json")
    tree["features"] = Path(config.features).name
    return tree
