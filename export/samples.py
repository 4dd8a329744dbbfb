"""Pictures that a card shows beside their translations: what `--sample` says. Light: torch is not loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dsmap.common.images import read_rgb
from dsmap.errors import InputError

OPTION = "--sample"
MAX_SAMPLES = 16


class SampleImage(NamedTuple):
    """A picture that the card shows beside its translation."""

    domain: str
    """Its own."""
    image: Path


def parse_samples(texts: Sequence[str]) -> list[SampleImage]:
    """Parses DOMAIN=IMAGE texts. Raises InputError for other texts, too many, and an image that cannot be read."""
    if len(texts) > MAX_SAMPLES:
        raise InputError(f"{len(texts)} samples, expected at most {MAX_SAMPLES}", f"Pass {OPTION} fewer times.")
    found = []
    for text in texts:
        domain, _, image = text.partition("=")
        if not (domain and image):
            raise InputError(f"{OPTION} {text!r} is not DOMAIN=IMAGE", f"Write it like {OPTION} summer=meadow.jpg.")
        try:
            read_rgb(Path(image))
        except InputError as error:
            raise InputError(f"{OPTION} {domain}: {error.fact}", error.advice) from error
        found.append(SampleImage(domain, Path(image)))
    return found


def check_sample_domains(samples: Sequence[SampleImage], domains: Sequence[str]) -> None:
    """Raises InputError for a sample of a domain that the model does not have."""
    for sample in samples:
        if sample.domain not in domains:
            raise InputError(
                f"{OPTION}: the model has no domain {sample.domain!r}", f"Its domains: {', '.join(domains)}."
            )
