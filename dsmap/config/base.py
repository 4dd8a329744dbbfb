"""The base class of all settings, and limits on what files may ask for."""

import re

from pydantic import BaseModel, ConfigDict

from dsmap.errors import InputError

MAX_STEPS = 10**9
MAX_NAME = 100
MAX_WIDTH, MAX_SIDE = 4096, 16_384
MAX_STYLE_AXES = 64
"""Channels, and pixels of an image side: files cannot ask for more, as memory and time grow with them."""

DOMAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
"""Valid domain names: they become parts of file names."""


class Settings(BaseModel):
    """Frozen, keyword-only settings that refuse unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def check_domain_names(domains: tuple[str, str]) -> None:
    """Raises ValueError unless the two names differ and can be parts of file names."""
    if domains[0] == domains[1]:
        raise ValueError(f"the two domains need different names, got {domains[0]!r} twice")
    for name in domains:
        if not DOMAIN_NAME.fullmatch(name) or len(name) > MAX_NAME:
            raise ValueError(
                f"a domain's name is up to {MAX_NAME} letters, digits, - and _, got {name[: MAX_NAME + 1]!r}"
            )


def check_given_domains(domains: tuple[str, str]) -> None:
    """As `check_domain_names`, for names that a user passes: raises InputError."""
    try:
        check_domain_names(domains)
    except ValueError as error:
        raise InputError(str(error), "Pass names that can be parts of file names, such as summer,winter.") from error
