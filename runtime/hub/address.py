"""Addresses of models on the Hugging Face Hub: `hf:owner/name`, or `hf:owner/name@revision`."""

import re
from dataclasses import dataclass

from dsmap.errors import InputError

SCHEME = "hf:"
DEFAULT_REVISION = "main"
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,199}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)


@dataclass(frozen=True)
class HubAddress:
    """A model on the Hub, in one revision."""

    owner: str
    name: str
    revision: str = DEFAULT_REVISION
    """A branch, a tag or a commit."""

    @property
    def repo(self) -> str:
        """What the Hub calls it: owner/name."""
        return f"{self.owner}/{self.name}"

    def __str__(self) -> str:
        return f"{SCHEME}{self.repo}" + ("" if self.revision == DEFAULT_REVISION else f"@{self.revision}")

    def at(self, commit: str) -> "HubAddress":
        """The same model in the revision `commit`."""
        return HubAddress(self.owner, self.name, commit)


def is_address(text: object) -> bool:
    """Whether `text` means a model on the Hub, be it a valid address or not."""
    return str(text).startswith(SCHEME)


def is_commit(revision: str) -> bool:
    """Whether `revision` is the full hash of a commit, which never means anything else later."""
    return _COMMIT.fullmatch(revision) is not None


def parse_address(text: str) -> HubAddress:
    """The address that `text` is. Raises InputError for anything else."""
    repo, at, revision = text.removeprefix(SCHEME).partition("@")
    parts = repo.split("/")
    valid = text.startswith(SCHEME) and len(parts) == 2 and all(map(_is_part, parts))
    if not valid or (at and (not _REVISION.fullmatch(revision) or ".." in revision)):
        raise InputError(
            f"{text[:200]!r} is not the address of a model on the Hugging Face Hub",
            "Write hf:OWNER/NAME, or hf:OWNER/NAME@REVISION.",
        )
    return HubAddress(parts[0], parts[1], revision or DEFAULT_REVISION)


def _is_part(text: str) -> bool:
    return bool(_PART.fullmatch(text)) and "--" not in text and ".." not in text and text[-1] not in ".-"
