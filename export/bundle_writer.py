"""Checkpoint -> bundle: write the graphs, check them against torch and each other, write what they are."""

import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dsmap import __version__
from dsmap.common.atomic import rename_no_replace, replace_folder, sync_folder, sync_tree
from dsmap.common.notify import Notify
from dsmap.common.output_files import keep_beside
from dsmap.common.part_files import part_folder
from dsmap.errors import DsmapError, InputError
from dsmap.export.bundle_folder import check_bundle_folder
from dsmap.export.graphs import ALL_REWRITES, OPSET, Templates, graphs, write_graph
from dsmap.export.named_styles import Codes, check_domains, style_codes
from dsmap.export.precision_check import MIN_IMAGES, PrecisionCheck, compare_precision, require_passed
from dsmap.export.rewrites import Rewrites
from dsmap.export.trained_model import TrainedModel, pick_images
from dsmap.export.verify import GraphFiles, Verification, verify_graphs
from dsmap.runtime.bundle.bundle import Manifest, Sizes, Style, describe_components, write_manifest

# CheckImages of each domain that the float32 graphs are checked on.
CHECK_IMAGES = 4
CALIBRATION_IMAGES = 16


class Variants(NamedTuple):
    """Which precisions are made beside float32."""

    fp16: bool = False
    int8: bool = False
    force: bool = False
    """Keep one that is below its gate, and say so."""


class Exported(NamedTuple):
    """What an export has made and found."""

    manifest: Manifest
    verification: Verification
    precision_checks: list[PrecisionCheck]
    seconds: dict[str, float]
    """How long the graphs of each precision took to make."""


def write_bundle(
    source: TrainedModel,
    out: Path,
    *,
    name: str | None = None,
    licence: str = "not stated",
    card: str | None = None,
    overwrite: bool = False,
    rewrites: Rewrites = ALL_REWRITES,
    variants: Variants | None = None,
    say: Notify = lambda _line: None,
) -> Exported:
    """Writes the bundle `out` whole or not at all, after its graphs have been checked.

    `rewrites` are those made before the export, `variants` the precisions beyond float32.

    Raises InputError when `out` may not be written (see `check_bundle_folder`) or a named style is of no domain of the
    model, DsmapError when a graph is off or a precision below its gate.
    """
    out = Path(os.path.abspath(out))
    check_bundle_folder(out, overwrite=overwrite)
    check_domains(source.named_styles, source.model.domains)
    part: Path | None = None
    try:
        part = part_folder(Path(os.path.realpath(out)))  # where a link leads, which stays one
        made = _BundleBuilder(source, part, rewrites, variants or Variants(), say)
        made.run()
        assert made.verification is not None
        manifest = _describe(made, name or out.name, licence, card)
        write_manifest(part, manifest)
        sync_tree(part)
        _give_name(part, out, overwrite=overwrite)
    except OSError as error:
        raise DsmapError(f"cannot write the bundle {out}: {error}", "Free disk space or choose another -o.") from error
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
    return Exported(manifest, made.verification, made.precision_checks, made.seconds)


def _give_name(part: Path, out: Path, *, overwrite: bool) -> None:
    """The bundle in `part` becomes `out`, as far as that may be written now: another export may have been quicker.

    Raises DsmapError when it may not; it says where the bundle is then.
    """
    final = Path(os.path.realpath(out))
    try:
        check_bundle_folder(out, overwrite=overwrite)
        if final.is_dir() and any(final.iterdir()):
            replace_folder(part, final)
            return
        if final.is_dir():
            final.rmdir()
        rename_no_replace(part, final)
        sync_folder(final.parent)
    except (InputError, OSError) as error:
        reason = error.fact if isinstance(error, InputError) else error.strerror
        place = keep_beside(part, final)
        if place == part:
            raise
        raise DsmapError(
            f"the finished bundle could not be named {out}: {reason}", f"It is whole, and lies in {place}."
        ) from error


class _BundleBuilder:
    """The graphs of a bundle in the making, by precision, and what was found about them."""

    def __init__(
        self,
        source: TrainedModel,
        folder: Path,
        rewrites: Rewrites,
        variants: Variants,
        say: Notify,
    ) -> None:
        self.source, self.folder, self.say = source, folder, say
        self.rewrites, self.variants = rewrites, variants
        self.files: dict[str, GraphFiles] = {}
        self.seconds: dict[str, float] = {}
        self.verification: Verification | None = None
        self.precision_checks: list[PrecisionCheck] = []
        self.named_styles: Codes = {}
        self.float_layers: dict[str, list[str]] = {}
        """Of int8: the convolutions that stayed in float, by graph."""

    def run(self) -> None:
        """Writes the float32 graphs and checks them, then every variant."""
        model = self.source.model
        self._write("fp32")
        images = pick_images(self.source, CHECK_IMAGES)
        self.say(f"checking against torch on {len(images)} {images.origin} images")
        self.verification = verify_graphs(model, self.files["fp32"], images.by_domain, images.origin)
        encoders = {domain: self.files["fp32"]["style_encoder", domain] for domain in model.domains}
        self.named_styles = style_codes(self.source.named_styles, encoders, _sizes(self.source))
        if self.variants.fp16:
            self._write("fp16")
            self._check_precision("fp16")
        if self.variants.int8:
            self._quantise()
            self._check_precision("int8")

    def _write(self, precision: str) -> None:
        began, files, templates = time.monotonic(), {}, Templates()
        for graph in graphs(self.source.model, self.rewrites, precision):
            path = self.folder / graph.file_name
            write_graph(graph, path, templates)
            files[graph.component, graph.domain] = path
            self._tell(path)
        self._keep(precision, files, began)

    def _quantise(self) -> None:
        from dsmap.export.int8 import quantise

        began = time.monotonic()
        images = pick_images(self.source, CALIBRATION_IMAGES, part=1)
        self.say(f"calibrating int8 on {len(images)} {images.origin} images")
        made = quantise(self.files["fp32"], self.folder, images.by_domain, self._calibration_styles(), self.say)
        for (component, domain), path in made.files.items():
            self.float_layers[f"{component} {domain}"] = made.float_layers[component, domain]
            self._tell(path)
        self._keep("int8", made.files, began)

    def _tell(self, path: Path) -> None:
        self.say(f"wrote {path.name} ({path.stat().st_size / 1e6:.1f} MB)")

    def _keep(self, precision: str, files: GraphFiles, began: float) -> None:
        self.files[precision], self.seconds[precision] = files, time.monotonic() - began

    def _check_precision(self, precision: str) -> None:
        """Raises DsmapError below the gate, unless forced."""
        config = self.source.model.config
        images = pick_images(self.source, MIN_IMAGES, at_least=MIN_IMAGES)
        self.say(f"checking {precision} against fp32 on {len(images)} {images.origin} images")
        check = compare_precision(
            precision,
            self.files["fp32"],
            self.files[precision],
            images.by_domain,
            images.origin,
            styles={domain: np.array(s.mean, np.float32) for domain, s in self.source.styles.items()},
            width=config.width_per_pixel,
            minimum=config.minimum_size,
            say=self.say,
        )
        require_passed(check, force=self.variants.force, say=self.say)
        self.precision_checks.append(check)

    def _calibration_styles(self) -> dict[str, list[np.ndarray]]:
        """By domain: the mean, which is what people use most, and every other one drawn from N(0, I)."""
        rng = np.random.default_rng(0)
        return {
            domain: [
                code
                for _ in range(CALIBRATION_IMAGES // 2)
                for code in (np.array(s.mean, np.float32), rng.standard_normal(len(s.mean)).astype(np.float32))
            ]
            for domain, s in self.source.styles.items()
        }


def _describe(made: _BundleBuilder, name: str, licence: str, card: str | None) -> Manifest:
    source, config = made.source, made.source.model.config
    assert made.verification is not None
    provenance = source.provenance | {
        "exported_by": f"dsmap {__version__}, torch {torch.__version__}, ONNX opset {OPSET}",
        "rewrites": [name for name, on in made.rewrites._asdict().items() if on],
        "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    parts = {precision: describe_components(made.folder, files) for precision, files in made.files.items()}
    return Manifest(
        name=name,
        domains=config.domains,
        precision="fp32",
        style_dim=config.style_dim,
        sizes=_sizes(source),
        architecture=config.model_dump(mode="json"),
        components=parts.pop("fp32"),
        variants=parts,
        styles={
            domain: Style(**statistics._asdict(), named=made.named_styles.get(domain, {}))
            for domain, statistics in source.styles.items()
        },
        licence=licence,
        card=card or _default_card(source, name, licence),
        provenance=provenance,
        verification=made.verification.as_dict() | {"variants": _variant_checks(made)},
    )


def _sizes(source: TrainedModel) -> Sizes:
    config = source.model.config
    return Sizes(
        multiple_of=config.multiple_of,
        minimum=config.minimum_size,
        style_minimum=config.style_minimum_size,
        trained_at=source.trained_at,
    )


def _variant_checks(made: _BundleBuilder) -> dict[str, Any]:
    found = {check.precision: check.as_dict() for check in made.precision_checks}
    if "int8" in found:
        found["int8"]["float_layers"] = made.float_layers
    return found


def _default_card(source: TrainedModel, name: str, licence: str) -> str:
    a, b = source.model.domains
    parameters = sum(p.numel() for p in source.model.parameters()) / 1e6
    step = source.provenance.get("step")
    trained = f"{step} iterations" if step else "an unstated number of iterations"
    styles = " and ".join(f"{s.pictures} of {d}" for d, s in source.styles.items())
    names = ", ".join(f"{style.name} ({style.domain})" for style in source.named_styles)
    named = f"Named styles: {names}.\n\n" if names else ""
    return (
        f"# {name}\n\nTranslates images and video between {a} and {b} (DSMAP, {parameters:.2f} M parameters in all, "
        f"both directions), trained for {trained} at a shorter side of {source.trained_at} pixels. Default styles are "
        f"means over {styles} images (0 means the prior).\n\n{named}Licence of the weights: {licence}.\n"
    )
