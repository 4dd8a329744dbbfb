"""The models that the project knows by name: `models.toml` beside this file."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from dsmap.errors import DsmapError
from dsmap.runtime.hub.address import HubAddress, is_address, is_commit, parse_address

FILE = Path(__file__).with_name("models.toml")
BUNDLED = "bundled"


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """A model that has a name in `models.toml`."""

    name: str
    about: str
    """One line about it."""
    address: HubAddress | None
    """Where on the Hub it is, its revision a commit; None: it comes with the package."""
    bundle_sha256: str | None = None
    """SHA-256 of its bundle.json; None only for models of the package."""


def known_models() -> dict[str, KnownModel]:
    """The models of `models.toml` by name. Raises DsmapError for an entry that is not pinned."""
    with FILE.open("rb") as stream:
        entries = tomllib.load(stream)
    return {name: _known(name, entry) for name, entry in entries.items()}


def _known(name: str, entry: dict[str, str]) -> KnownModel:
    source, sha256 = entry["source"], entry.get("bundle_sha256")
    if source == BUNDLED:
        return KnownModel(name=name, about=entry["about"], address=None)
    address = parse_address(source)
    if is_address(name) or not is_commit(address.revision) or not re.fullmatch("[0-9a-f]{64}", sha256 or ""):
        raise DsmapError(
            f"the entry {name} of {FILE.name} is not pinned", "Give the whole commit, and bundle_sha256 of 64 digits."
        )
    return KnownModel(name=name, about=entry["about"], address=address, bundle_sha256=sha256)
