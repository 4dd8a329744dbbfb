"""Pushes a bundle to the Hugging Face Hub, in one commit.

    plan = plan_push(Path("my-model"), parse_address("hf:owner/name"))      # what would go up; nothing is sent
    pushed = push(plan, say=print)

What goes up is what a pull would fetch: the files that bundle.json names, the card, the licence and sample pictures.
Never engines, which are code, and never what else lies in the folder.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dsmap import __version__
from dsmap.common.files import read_regular
from dsmap.common.notify import Notify
from dsmap.common.text import printable
from dsmap.errors import DsmapError, InputError, first_line
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.bundle.card import CARD, SAMPLES, check_card, licence_keys, split_card, write_card
from dsmap.runtime.bundle.manifest import MANIFEST, Manifest
from dsmap.runtime.hub.address import DEFAULT_REVISION, HubAddress
from dsmap.runtime.hub.client import Hub
from dsmap.runtime.hub.client_errors import LOG_IN, HubError, explained_for
from dsmap.runtime.hub.facts import read_card
from dsmap.runtime.hub.pull import MAX_DOCUMENT, MAX_PICTURE, is_extra

_ANYBODY = "hf:OWNER/NAME"  # in cards, until it is known


@dataclass(frozen=True, kw_only=True)
class PushPlan:
    """What would go up, checked."""

    address: HubAddress
    folder: Path
    files: dict[str, int]
    """Paths and bytes, the card among them."""
    card: str
    """As it goes up: with the address in its commands."""
    left_out: list[str]
    """What else is in the folder."""

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(self.files.values())


class PushedModel(NamedTuple):
    """A model that is on the Hub now."""

    pinned: HubAddress
    url: str


def plan_push(folder: Path, address: HubAddress) -> PushPlan:
    """What a push of the bundle `folder` would send to `address`. Needs no network.

    Raises InputError for a bundle that is not whole, and for a card without licence or data.
    """
    if address.revision != DEFAULT_REVISION:
        raise InputError(f"{address} names a revision", "Push to hf:OWNER/NAME: a commit gets its name from the Hub.")
    bundle = Bundle.read(folder)
    bundle.release()
    written = read_card(folder)
    card = write_card(bundle.manifest) if written is None else written
    check_card(card)
    _check_licence(bundle.manifest, card)
    card = card.replace(_ANYBODY, str(address))
    present = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    graphs = {file.path: file.bytes for file in bundle.manifest.files()}
    extras = {path: _size(folder / path) for path in present if is_extra(path) and path != CARD}
    files = {CARD: len(card.encode()), MANIFEST: (folder / MANIFEST).stat().st_size, **extras, **graphs}
    left_out = [path for path in present if path not in files]
    return PushPlan(address=address, folder=folder, files=files, card=card, left_out=left_out)


def push(plan: PushPlan, *, private: bool = False, say: Notify = lambda _line: None) -> PushedModel:
    """Sends what was planned, in one commit; the repository is made where it is not there yet.

    `private`: only for its owner, if it is made now. Raises InputError without a token that may write, DsmapError
    where the Hub cannot be reached or refuses.
    """
    hub = Hub()
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if get_token() is None:
        raise InputError(f"there is no token for {hub.host}", f"Make one that may write, then {LOG_IN}.")
    disable_progress_bars()
    api = HfApi(library_name="dsmap", library_version=__version__)
    say(f"pushing {plan.bytes / 1e6:.1f} MB in {len(plan.files)} files to {plan.address} on {hub.host}")
    operations = [
        CommitOperationAdd(path, plan.card.encode() if path == CARD else str(plan.folder / path)) for path in plan.files
    ]
    try:
        with explained_for(plan.address, hub.endpoint), warnings.catch_warnings(record=True) as noted:
            warnings.simplefilter("always")
            api.create_repo(plan.address.repo, private=private or None, exist_ok=True)
            message = f"{plan.folder.resolve().name}, by dsmap {__version__}"
            done = api.create_commit(plan.address.repo, operations, commit_message=message)
    except (ValueError, RuntimeError, OSError) as error:  # a head that the Hub does not take, a transfer that failed
        if isinstance(error, DsmapError):
            raise
        raise HubError(
            printable(f"{hub.host} did not take it: {first_line(error.__cause__ or error)}"), "Try again later."
        ) from error
    for warning in noted:
        if "README" in str(warning.message):
            say(printable(" ".join(str(warning.message).split())))
    return PushedModel(plan.address.at(done.oid), f"{hub.endpoint}/{plan.address.repo}")


def _check_licence(manifest: Manifest, card: str) -> None:
    """Raises InputError where the card and bundle.json, which every copy carries, state different licences."""
    in_bundle, in_card = licence_keys(manifest.licence).get("license"), split_card(card)[0].get("license")
    if in_bundle not in (None, in_card):
        raise InputError(
            f"{CARD} says license: {in_card}, and {MANIFEST} {manifest.licence!r}",
            f"Make them agree: dsmap export BUNDLE --licence {in_card}, or edit the card.",
        )


def _size(path: Path) -> int:
    """Of the card's company. Raises InputError for a file that no pull would fetch."""
    most = MAX_PICTURE if path.parent.name == SAMPLES else MAX_DOCUMENT
    return len(read_regular(path, limit=most, what="the file"))
