"""Writes a trained network as a bundle: its graphs, checked against torch and each other, and bundle.json."""

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dsmap.common.atomic import rename_no_replace, replace_folder, sync_folder, sync_tree
from dsmap.common.notify import Notify
from dsmap.common.output_files import keep_beside
from dsmap.common.part_files import part_folder
from dsmap.errors import DsmapError, InputError
from dsmap.export.bundle_description import describe_bundle
from dsmap.export.bundle_folder import check_bundle_folder
from dsmap.export.documents import body_and_head, write_documents
from dsmap.export.graph_metadata import stamp_graphs
from dsmap.export.graphs import ALL_REWRITES, Templates, write_graph
from dsmap.export.model_graphs import model_graphs
from dsmap.export.named_styles import Codes, check_domains, style_codes
from dsmap.export.precision_check import MIN_IMAGES, PrecisionCheck, compare_precision, require_passed
from dsmap.export.rewrites import Rewrites
from dsmap.export.samples import SampleImage, check_sample_domains
from dsmap.export.trained_model import TrainedModel, pick_images
from dsmap.export.verify import GraphFiles, Verification, verify_graphs
from dsmap.runtime.bundle.bundle import Manifest, write_manifest

VERIFICATION_IMAGES = 4
"""Images of each domain on which the float32 graphs are compared with torch."""
CALIBRATION_IMAGES = 16


class Variants(NamedTuple):
    """Precisions to write besides float32."""

    fp16: bool = False
    int8: bool = False
    force: bool = False
    """Keep a precision that fails its check; bundle.json records the failure."""


class WrittenBundle(NamedTuple):
    """A bundle that was written, and the results of its checks."""

    manifest: Manifest
    verification: Verification
    precision_checks: list[PrecisionCheck]
    seconds: dict[str, float]
    """Time spent on the graphs of each precision."""


def write_bundle(
    source: TrainedModel,
    out: Path,
    *,
    name: str | None = None,
    licence: str = "not stated",
    card: str | None = None,
    datasets: Sequence[str] = (),
    samples: Sequence[SampleImage] = (),
    overwrite: bool = False,
    rewrites: Rewrites = ALL_REWRITES,
    variants: Variants | None = None,
    say: Notify = lambda _line: None,
) -> WrittenBundle:
    """Writes the bundle `out`, whole and checked or not at all.

    `card`: Markdown in place of the default text, with or without a YAML head. `datasets`: what it was trained on.
    Raises InputError when `out` cannot be written (see `check_bundle_folder`) or the model does not have the domain of
    a named style, DsmapError when a graph differs from torch or a precision fails its check.
    """
    out = Path(os.path.abspath(out))
    check_bundle_folder(out, overwrite=overwrite)
    check_domains(source.named_styles, source.model.domains)
    check_sample_domains(samples, source.model.domains)
    body, head = body_and_head(card)
    part: Path | None = None
    try:
        part = part_folder(Path(os.path.realpath(out)))  # beside the target of a link, and the link stays
        builder = _BundleBuilder(source, part, rewrites, variants or Variants(), say)
        verification = builder.run()
        stamp_graphs(builder.files, model=name or out.name, licence=licence)
        manifest = describe_bundle(
            source,
            part,
            builder.files,
            name=name or out.name,
            licence=licence,
            card=body,
            datasets=datasets,
            rewrites=rewrites,
            named_styles=builder.named_styles,
            verification=verification,
            precision_checks=builder.precision_checks,
            float_layers=builder.float_layers,
        )
        manifest = write_documents(part, manifest, source.model, samples, head)
        write_manifest(part, manifest)
        sync_tree(part)
        _publish(part, out, overwrite=overwrite)
    except OSError as error:
        raise DsmapError(f"cannot write the bundle {out}: {error}", "Free disk space or choose another -o.") from error
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
    return WrittenBundle(manifest, verification, builder.precision_checks, builder.seconds)


def _publish(part: Path, out: Path, *, overwrite: bool) -> None:
    """Renames the finished bundle `part` to `out`, if that is still allowed: another export may have been faster.

    Raises DsmapError if not, and says where the finished bundle is.
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
            f"the finished bundle could not be named {out}: {reason}", f"It is complete, and is kept as {place}."
        ) from error


class _BundleBuilder:
    """Writes the graphs of a bundle, precision by precision, and checks them."""

    def __init__(self, source: TrainedModel, folder: Path, rewrites: Rewrites, variants: Variants, say: Notify) -> None:
        self.source, self.folder, self.say = source, folder, say
        self.rewrites, self.variants = rewrites, variants
        self.files: dict[str, GraphFiles] = {}
        """By precision."""
        self.seconds: dict[str, float] = {}
        self.precision_checks: list[PrecisionCheck] = []
        self.named_styles: Codes = {}
        self.float_layers: dict[str, list[str]] = {}
        """By int8 graph: the convolutions that stayed in float32."""

    def run(self) -> Verification:
        """Writes the float32 graphs and compares them with torch, then every variant with them."""
        model = self.source.model
        self._write("fp32")
        images = pick_images(self.source, VERIFICATION_IMAGES)
        self.say(f"checking against torch on {len(images)} {images.origin} images ...")
        verification = verify_graphs(model, self.files["fp32"], images.by_domain, images.origin)
        encoders = {domain: path for (part, domain), path in self.files["fp32"].items() if part == "style_encoder"}
        self.named_styles = style_codes(self.source.named_styles, encoders, self.source.sizes)
        if self.variants.fp16:
            self._write("fp16")
            self._check("fp16")
        if self.variants.int8:
            self._quantise()
            self._check("int8")
        return verification

    def _write(self, precision: str) -> None:
        began, files, templates = time.monotonic(), {}, Templates()
        self.say(f"writing the graphs in {precision} ...")
        for graph in model_graphs(self.source.model, self.rewrites, precision):
            path = self.folder / graph.file_name
            write_graph(graph, path, templates)
            files[graph.component, graph.domain] = path
        self.files[precision], self.seconds[precision] = files, time.monotonic() - began

    def _quantise(self) -> None:
        from dsmap.export.int8 import quantise

        began = time.monotonic()
        images = pick_images(self.source, CALIBRATION_IMAGES, part=1)
        self.say(f"calibrating int8 on {len(images)} {images.origin} images ...")
        made = quantise(self.files["fp32"], self.folder, images.by_domain, self._calibration_styles(), self.say)
        for component, domain in made.files:
            self.float_layers[f"{component} {domain}"] = made.float_layers[component, domain]
        self.files["int8"], self.seconds["int8"] = made.files, time.monotonic() - began

    def _check(self, precision: str) -> None:
        """Raises DsmapError for a precision that fails its check, unless forced."""
        config = self.source.model.config
        images = pick_images(self.source, MIN_IMAGES, at_least=MIN_IMAGES)
        self.say(f"checking {precision} against fp32 on {len(images)} {images.origin} images ...")
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
        """By domain: the mean style, which is used most, alternating with draws from N(0, I)."""
        rng = np.random.default_rng(0)
        return {
            domain: [
                code
                for _ in range(CALIBRATION_IMAGES // 2)
                for code in (np.array(s.mean, np.float32), rng.standard_normal(len(s.mean)).astype(np.float32))
            ]
            for domain, s in self.source.styles.items()
        }
