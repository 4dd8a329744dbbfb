"""What is exported: the generators of a checkpoint, ours or the authors', and what is known of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dsmap.common.images import list_images
from dsmap.config import TrainConfig
from dsmap.errors import InputError
from dsmap.export.named_styles import NamedStyle, check_domains
from dsmap.export.verify import generated_images
from dsmap.model.authors_checkpoint import load_official, read_official_config
from dsmap.model.dsmap import DSMAP, is_finite
from dsmap.runtime.bundle.bundle import file_sha256
from dsmap.training.checkpoint import load_generators, read_checkpoint
from dsmap.training.data import Domains, find_domains, load_readable_nchw
from dsmap.training.datasets import check_same_domains, default_style_images
from dsmap.training.output_adjustments import OutputAdjustments
from dsmap.training.samples import to_rgb
from dsmap.training.style_statistics import StyleStatistics, prior_statistics, styles_by_domain

_WEIGHTS = ("ema", "generators")


class TrainedModel(NamedTuple):
    """Generators to export, and what is known of them."""

    model: DSMAP
    trained_at: int
    """Shorter side of the training images in pixels."""
    styles: dict[str, StyleStatistics]
    images: dict[str, list[Path]]
    """CheckImages of each domain to check the graphs on; empty lists when none are at hand."""
    provenance: dict[str, Any]
    named_styles: Sequence[NamedStyle] = ()
    """CheckImages whose styles get a name."""


def open_checkpoint(
    path: Path,
    weights: str = "ema",
    data: Path | None = None,
    folders: Sequence[tuple[str, Path]] = (),
    named_styles: Sequence[NamedStyle] = (),
    adjustments: OutputAdjustments | None = None,
    default_styles: Mapping[str, Path] | None = None,
) -> TrainedModel:
    """The generators of a run of dsmap-train; `weights` is ema or generators (live).

    `path` is the run, one of its checkpoints, or a checkpoint's ema.safetensors or generators.safetensors: that then.
    `data` or `folders` (see `find_domains`) replace the images that the run was trained on; the default styles of the
    domains in `default_styles` are the means over the images of a folder. Raises InputError for `named_styles` or
    `default_styles` of a domain that it does not have, and for a value of `adjustments` out of range.
    """
    if path.suffix == ".safetensors" and path.is_file():
        if path.stem not in _WEIGHTS:
            raise InputError(
                f"{path} holds no generators", f"Pass {' or '.join(_WEIGHTS)}.safetensors of a checkpoint."
            )
        path, weights = path.parent, path.stem
    checkpoint = read_checkpoint(path)
    adjustments = adjustments or OutputAdjustments()
    config = checkpoint.config.model_copy(update={"model": adjustments.apply(checkpoint.config.model)})
    checkpoint = checkpoint._replace(config=config)
    check_domains(named_styles, config.model.domains)
    chosen = default_style_images(default_styles or {}, config.model.domains)
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
        domains = find_domains(data, folders, names=config.model.domains)
        check_same_domains(domains, model.domains)
        chosen, images = {d.name: d.train for d in domains} | chosen, _to_check_on(domains)
    styles = checkpoint.styles | styles_by_domain(model, chosen, config.data.shorter_side)
    provenance = {
        "kind": "dsmap-train",
        "step": checkpoint.step,
        "weights": weights,
        "weights_sha256": file_sha256(checkpoint.path / f"{weights}.safetensors"),
        "training": _portable(config),
    }
    further = {"polished": checkpoint.polished, "distilled": checkpoint.distilled}
    provenance |= {name: what for name, what in further.items() if what is not None}
    return TrainedModel(model, config.data.shorter_side, styles, images, provenance, named_styles)


def open_official(
    path: Path,
    config_yaml: Path,
    names: tuple[str, str],
    domains: Domains | None = None,
    named_styles: Sequence[NamedStyle] = (),
    default_styles: Mapping[str, Path] | None = None,
) -> TrainedModel:
    """The generators of a `gen_*.pt` by the authors' trainer.

    It keeps no style statistics: they come from the images of `domains`, or else are those of the prior N(0, I).
    `default_styles`: see `open_checkpoint`.
    """
    check_domains(named_styles, names)
    chosen = default_style_images(default_styles or {}, names)
    model = load_official(path, config_yaml, names)
    config = read_official_config(config_yaml)
    trained_at = config.get("new_size") or config.get("new_size_a") or config.get("crop_image_height") or 256
    if not isinstance(trained_at, int) or trained_at < model.config.multiple_of:
        raise InputError(f"{config_yaml}: new_size is {trained_at!r}, expected pixels", "Correct the YAML.")
    images: dict[str, list[Path]] = {name: [] for name in names}
    if domains is not None:
        chosen, images = {d.name: d.train for d in domains} | chosen, _to_check_on(domains)
    styles = {name: prior_statistics(model.config.style_dim) for name in names}
    styles |= styles_by_domain(model, chosen, trained_at)
    provenance = {"kind": "the authors' checkpoint", "file": Path(path).name, "weights_sha256": file_sha256(Path(path))}
    return TrainedModel(model, trained_at, styles, images, provenance, named_styles)


class CheckImages(NamedTuple):
    """CheckImages to check graphs on, by domain: uint8 RGB (H, W, 3), of a size the network takes."""

    by_domain: dict[str, list[npt.NDArray[np.uint8]]]
    origin: str
    """real, generated, or real and generated."""

    def __len__(self) -> int:
        return sum(map(len, self.by_domain.values()))


def pick_images(source: TrainedModel, count: int, *, at_least: int = 1, part: int = 0) -> CheckImages:
    """Up to `count` images of each domain at the training size, evenly picked; generated ones fill up to `at_least`.

    `part` 0 and 1 are different images where there are enough: to calibrate on the one and to check on the other.
    Where a domain has no image that can be read, all are generated.
    """
    multiple = source.model.config.multiple_of
    size = max(source.trained_at // multiple * multiple, source.model.config.style_minimum_size)
    found: dict[str, list[npt.NDArray[np.uint8]]] = {}
    for domain, paths in source.images.items():
        picked = [paths[(2 * i + part) * len(paths) // (2 * count)] for i in range(count)] if paths else []
        # A broken image was told of in training.
        found[domain] = [to_rgb(x_nchw)[0] for x_nchw in load_readable_nchw(dict.fromkeys(picked), size, multiple)]
    if not all(found.values()):
        seeds = {domain: 2 * i + part for i, domain in enumerate(source.model.domains)}
        return CheckImages({d: generated_images(size, count, seed) for d, seed in seeds.items()}, "generated")
    lacking = {domain: at_least - len(images) for domain, images in found.items() if len(images) < at_least}
    for domain, missing in lacking.items():
        found[domain] += generated_images(size, missing, part)
    return CheckImages(found, "real and generated" if lacking else "real")


def _to_check_on(domains: Domains) -> dict[str, list[Path]]:
    """Test images where there are any."""
    return {d.name: list(d.test or d.train) for d in domains}


def _portable(config: TrainConfig) -> dict[str, Any]:
    """The training configuration without paths of the machine it ran on."""
    tree = config.model_dump(mode="json")
    tree["features"] = Path(config.features).name
    return tree
