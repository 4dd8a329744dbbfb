"""Pushes a bundle to the Hugging Face Hub, in one commit.

    plan = plan_push(Path("my-model"), parse_address("hf:owner/name"))      # what would go up; nothing is sent
    pushed = push(plan, say=print)

What goes up is what a pull would fetch: the files that bundle.json names, the card, the licence and sample images.
Never engines, which are code, and never what else lies in the folder.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dsmap import __version__
from dsmap.common.files import read_regular
from dsmap.common.notify import Notify
from dsmap.common.strict_json import parse_json
from dsmap.common.text import printable, without_passwords
from dsmap.errors import DsmapError, InputError, first_line
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.bundle.card import CARD, check_card, licence_keys, split_card, write_card
from dsmap.runtime.bundle.manifest import ADVICE, MANIFEST, MAX_MANIFEST_BYTES, Manifest, parse_manifest
from dsmap.runtime.hub.address import DEFAULT_REVISION, HubAddress
from dsmap.runtime.hub.client import Hub
from dsmap.runtime.hub.client_errors import LOG_IN, HubError, explained_for
from dsmap.runtime.hub.contents import MAX_IMAGES, begins_as_image, is_extra, is_image, most_bytes
from dsmap.runtime.hub.facts import read_card

_ANYBODY = "hf:OWNER/NAME"  # in cards, until it is known


@dataclass(frozen=True, kw_only=True)
class PushPlan:
    """What would go up, checked."""

    address: HubAddress
    folder: Path
    files: dict[str, int]
    """Paths and bytes, the card among them."""
    data: dict[str, bytes]
    """The files that are no graphs, as they were checked and go up: the card has the address in its commands."""
    hashes: dict[str, str]
    """SHA-256 of the graphs."""
    left_out: list[str]
    """What else is in the folder."""

    @property
    def card(self) -> str:
        """As it goes up."""
        return self.data[CARD].decode()

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

    Raises InputError for a bundle that is not whole, for links and images that are none among its files, and for a
    card without licence or data.
    """
    if address.revision != DEFAULT_REVISION:
        raise InputError(f"{address} names a revision", "Push to hf:OWNER/NAME: a commit gets its name from the Hub.")
    present = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    extras = _images_first(path for path in present if is_extra(path) and path != CARD)
    bundle = Bundle.read(folder)
    bundle.release()
    graphs = list(dict.fromkeys(bundle.manifest.files()))
    for path in (CARD, MANIFEST, *extras, *(file.path for file in graphs)):
        _check_no_link(folder, path)
    written = read_card(folder)
    card = write_card(bundle.manifest) if written is None else written
    check_card(card)
    _check_licence(bundle.manifest, card)
    data = {CARD: card.replace(_ANYBODY, str(address)).encode(), MANIFEST: _manifest_bytes(folder, bundle.manifest)}
    data |= {path: _extra(folder, path) for path in extras}
    files = {path: len(content) for path, content in data.items()} | {file.path: file.bytes for file in graphs}
    return PushPlan(
        address=address,
        folder=folder,
        files=files,
        data=data,
        hashes={file.path: file.sha256 for file in graphs},
        left_out=[path for path in present if path not in files],
    )


def push(plan: PushPlan, *, private: bool = False, say: Notify = lambda _line: None) -> PushedModel:
    """Sends what was planned, in one commit; the repository is made where it is not there yet.

    `private`: only for its owner, if it is made now. Raises InputError without a token that may write, DsmapError
    where the Hub cannot be reached or refuses.
    """
    hub = Hub()
    if hub.offline:
        raise HubError("HF_HUB_OFFLINE forbids to push", "Push with a network, and without HF_HUB_OFFLINE.")
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if get_token() is None:
        raise InputError(f"there is no token for {hub.host}", f"Make one that may write, then {LOG_IN}.")
    disable_progress_bars()
    api = HfApi(library_name="dsmap", library_version=__version__)
    say(f"pushing {plan.bytes / 1e6:.1f} MB in {len(plan.files)} files to {plan.address} on {hub.host}")
    try:
        operations = _operations(plan)
        with explained_for(plan.address, hub.endpoint), warnings.catch_warnings(record=True) as noted:
            warnings.simplefilter("always")
            api.create_repo(plan.address.repo, private=private or None, exist_ok=True)
            message = f"{plan.folder.resolve().name}, by dsmap {__version__}"
            done = api.create_commit(plan.address.repo, operations, commit_message=message)
    except (ValueError, RuntimeError, OSError) as error:  # a head that the Hub does not take, a transfer that failed
        if isinstance(error, DsmapError):
            raise
        raise HubError(
            printable(f"{hub.host} did not take it: {without_passwords(first_line(error.__cause__ or error))}"),
            "Try again later.",
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


def _operations(plan: PushPlan) -> list[Any]:
    """What the commit adds. Raises InputError for a graph that is not the one that was checked any more."""
    from huggingface_hub import CommitOperationAdd

    added = [CommitOperationAdd(path, plan.data.get(path, str(plan.folder / path))) for path in plan.files]
    for one in added:
        expected = plan.hashes.get(one.path_in_repo)
        if expected is not None and one.upload_info.sha256.hex() != expected:
            raise InputError(f"{plan.folder / one.path_in_repo} has changed in the meantime", "Push again.")
    return added


def _images_first(paths: Iterable[str]) -> list[str]:
    """Of the images those that a pull would fetch, and all else."""
    extras = list(paths)
    images = [path for path in extras if is_image(path)]
    return images[:MAX_IMAGES] + [path for path in extras if not is_image(path)]


def _check_no_link(folder: Path, path: str) -> None:
    """Raises InputError where a file, or a folder on the way to it, is a link: what it leads to may be private."""
    for place in (folder / path, *(folder / path).parents):
        if place == folder:
            return
        if place.is_symlink():
            raise InputError(
                printable(f"{place} is a link, and what it leads to is not pushed"), "Put the file itself there."
            )


def _manifest_bytes(folder: Path, manifest: Manifest) -> bytes:
    """The bundle.json that goes up: the one that `manifest` was read from."""
    path = folder / MANIFEST
    data = read_regular(path, limit=MAX_MANIFEST_BYTES, what="the manifest")
    if parse_manifest(parse_json(data, what=f"the manifest {path}", advice=ADVICE), str(folder), str(path)) != manifest:
        raise InputError(f"{path} has changed in the meantime", "Push again.")
    return data


def _extra(folder: Path, path: str) -> bytes:
    """One of the card's company. Raises InputError for a file that no pull would take."""
    data = read_regular(folder / path, limit=most_bytes(path), what="the file")
    if is_image(path) and not begins_as_image(data):
        raise InputError(
            f"{folder / path} is not a JPEG, PNG or WebP image", "Replace it by one, or move it out of the folder."
        )
    return data
