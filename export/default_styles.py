"""Replaces default styles of a bundle by those of chosen images, whose codes its own style encoder computes."""

from collections.abc import Mapping
from pathlib import Path

import torch

from dsmap.common.images import list_images, read_rgb
from dsmap.errors import InputError
from dsmap.export.named_styles import update_styles
from dsmap.export.verify import open_session
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.bundle.style_images import fit_style_image
from dsmap.training.datasets import check_named_domains
from dsmap.training.style_statistics import StyleStatistics, statistics_of_codes


def replace_default_styles(folder: Path, images: Mapping[str, Path]) -> dict[str, StyleStatistics]:
    """Sets mean, standard deviation and principal axes of the styles of domains in the bundle `folder`.

    `images`: a folder of images for each domain; those that cannot be read are skipped. Raises InputError for an
    unknown domain and fewer than two images, DsmapError for codes that are not finite and if bundle.json cannot be
    written.
    """
    bundle = Bundle.read(folder)
    bundle.manifest.need_styles("--default-style")
    check_named_domains("--default-style", images, bundle.manifest.domains)
    found = {domain: _statistics(bundle, domain, path) for domain, path in images.items()}
    update_styles(folder, {domain: statistics._asdict() for domain, statistics in found.items()})
    return found


def _statistics(bundle: Bundle, domain: str, images: Path) -> StyleStatistics:
    graph = bundle.graph_data("style_encoder", domain)
    assert graph is not None, "a bundle is read only if it has it"
    session = open_session(graph.data)
    codes = []
    for path in list_images(images):
        try:
            image_rgb = read_rgb(path)
        except InputError:
            continue
        frames = fit_style_image(image_rgb, bundle.manifest.sizes)[None]
        codes.append(torch.from_numpy(session.run(["style"], {"frames": frames})[0][0]))
    return statistics_of_codes(codes, domain)
