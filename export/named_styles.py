"""Computes named styles of a bundle: the style codes of chosen images, which are not stored themselves.

Light: commands use it before torch is loaded.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dsmap.common.images import read_rgb
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.bundle.bundle import STYLE_NAME, Bundle, Sizes
from dsmap.runtime.bundle.manifest import MANIFEST, read_manifest, read_manifest_tree, write_manifest_tree
from dsmap.runtime.bundle.style_images import fit_style_image

OPTION = "--named-style"
_EXAMPLE = f"Write it like {OPTION} winter:fresh-snow=photo.jpg."

_DAMAGED = "The model is damaged: export another checkpoint."

Codes = dict[str, dict[str, list[float]]]
"""Style codes by domain and name."""


class NamedStyle(NamedTuple):
    """A style to add: the code of `image` in `domain`, under `name`."""

    domain: str
    name: str
    image: Path

    @property
    def title(self) -> str:
        """As users write it: DOMAIN:NAME."""
        return f"{self.domain}:{self.name}"


def parse_named_styles(texts: Iterable[str]) -> list[NamedStyle]:
    """Parses DOMAIN:NAME=IMAGE texts.

    Raises InputError for other texts, an invalid name, a name that is used twice, and an image that cannot be read.
    """
    styles: list[NamedStyle] = []
    for text in texts:
        title, _, image = text.partition("=")
        domain, _, name = title.partition(":")
        if not (domain and name and image):
            raise InputError(f"{OPTION} {text!r} is not DOMAIN:NAME=IMAGE", _EXAMPLE)
        if not STYLE_NAME.fullmatch(name):
            raise InputError(
                f"{OPTION} {title}: {name!r} is not a valid name for a style",
                "Use letters (a to z), digits, - and _; not mean, not a number, no leading -.",
            )
        if any(title == other.title for other in styles):
            raise InputError(f"{OPTION} {title} was passed twice", "Give each style of a domain its own name.")
        try:
            read_rgb(Path(image))
        except InputError as error:
            raise InputError(f"{OPTION} {title}: {error.fact}", error.advice) from error
        styles.append(NamedStyle(domain, name, Path(image)))
    return styles


def check_domains(styles: Iterable[NamedStyle], domains: tuple[str, str]) -> None:
    """Raises InputError for a style in a domain that the model does not have."""
    for style in styles:
        if style.domain not in domains:
            raise InputError(
                f"{OPTION} {style.title}: the model has no domain {style.domain!r}",
                f"Its domains are {domains[0]} and {domains[1]}.",
            )


def style_codes(styles: Sequence[NamedStyle], encoders: Mapping[str, Path | bytes], sizes: Sizes) -> Codes:
    """The codes that a translator computes for the same files. `encoders` are the float32 graphs by domain.

    Raises DsmapError when a code is not finite.
    """
    if not styles:
        return {}
    from dsmap.export.verify import open_session

    codes: Codes = {}
    for domain in dict.fromkeys(style.domain for style in styles):
        session = open_session(encoders[domain])
        for style in styles:
            if style.domain == domain:
                frames = fit_style_image(read_rgb(style.image), sizes)[None]
                code_s = session.run(["style"], {"frames": frames})[0][0]
                if not np.isfinite(code_s).all():
                    raise DsmapError(
                        f"the style encoder of {domain} gives a code for {style.image} that is not finite", _DAMAGED
                    )
                codes.setdefault(domain, {})[style.name] = code_s.tolist()
    return codes


def check_names_free(folder: Path, styles: Iterable[NamedStyle], *, overwrite: bool) -> None:
    """Raises InputError for an unknown domain, and without `overwrite` for a name that the bundle already has."""
    manifest = read_manifest(folder)
    manifest.need_styles("--named-style")
    check_domains(styles, manifest.domains)
    taken = [style for style in styles if style.name in manifest.styles[style.domain].named]
    if taken and not overwrite:
        raise InputError(
            f"{folder} already has a style {taken[0].title}", "Pass --overwrite to replace it, or choose another name."
        )


def add_named_styles(folder: Path, styles: Sequence[NamedStyle], *, overwrite: bool = False) -> Codes:
    """Adds the style codes of images to the bundle `folder`; nothing else in it changes.

    Raises InputError as `check_names_free`, DsmapError when bundle.json cannot be written.
    """
    check_names_free(folder, styles, overwrite=overwrite)
    bundle = Bundle.read(folder)
    wanted = {style.domain for style in styles}
    graphs = {domain: bundle.graph_data("style_encoder", domain) for domain in wanted}
    encoders = {domain: graph.data for domain, graph in graphs.items() if graph is not None}
    codes = style_codes(styles, encoders, bundle.manifest.sizes)
    named = {domain: bundle.manifest.styles[domain].named | added for domain, added in codes.items()}
    update_styles(folder, {domain: {"named": of_domain} for domain, of_domain in named.items()})
    return codes


def update_styles(folder: Path, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """Sets fields of the styles in bundle.json, by domain. Raises DsmapError if it cannot be written."""
    tree = read_manifest_tree(folder)  # with fields of later versions
    for domain, fields in changes.items():
        tree["styles"][domain] |= fields
    try:
        write_manifest_tree(folder, tree)
    except OSError as error:
        raise DsmapError(f"cannot write {folder / MANIFEST}: {error.strerror}", "Check the disk.") from error
