"""Models of the Hub by address or known name: in the cache, or pulled into it."""

import logging
from pathlib import Path

from dsmap.common.text import printable
from dsmap.errors import InputError
from dsmap.runtime.bundle.package_models import bundled_models
from dsmap.runtime.hub.address import HubAddress, parse_address
from dsmap.runtime.hub.cache import (
    PulledModel,
    commit_of,
    discard_unfinished,
    find_pulled,
    list_damaged,
    list_pulled,
    lock_repo,
    pulled_from,
    remove_pulled,
    repo_folder,
)
from dsmap.runtime.hub.names import is_hub_model
from dsmap.runtime.hub.pull import pull
from dsmap.runtime.hub.registry import known_models

_log = logging.getLogger("dsmap")


def address_of(model: str) -> tuple[HubAddress, str | None]:
    """The address that `model` is or stands for, and the SHA-256 that its bundle.json has to have, if one is known."""
    known = known_models().get(model)
    if known is not None and known.address is not None:
        return known.address, known.bundle_sha256
    return parse_address(model), None


def hub_folder(model: str) -> Path:
    """The bundle of a model of the Hub. Without a look at the network where it was pulled before.

    Raises InputError and DsmapError as `pull`.
    """
    address, sha256 = address_of(model)
    found = find_pulled(address, bundle_sha256=sha256)
    if found is None:
        found = pull(address, bundle_sha256=sha256, say=lambda line: _log.warning(printable(line)))
    return found.folder


def source_of(folder: Path) -> dict[str, str]:
    """For reports: where the model in `folder` was pulled from, with its commit; empty for models from elsewhere."""
    pulled = pulled_from(folder)
    return {} if pulled is None else {"model_source": str(pulled.pinned), "model_hub": pulled.endpoint}


def remove_model(model: str) -> list[PulledModel]:
    """Removes what `model` means from the cache; gives what it was. Without a revision, all its commits.

    Raises InputError for a model of the package, for a folder (which is the user's), and for one that is not there.
    """
    if model in bundled_models():
        raise InputError(f"{model} comes with the package, and stays", "To remove dsmap: pip uninstall dsmap")
    if not is_hub_model(model):
        raise InputError(f"{model} was not pulled by dsmap", "Remove folders of your own yourself.")
    address, _ = address_of(model)
    everything = "@" not in model and model not in known_models()
    if not repo_folder(address.repo).is_dir():
        raise InputError(f"{model} is not in the cache", "See: dsmap models list")
    with lock_repo(address.repo):
        mine = [one for one in [*list_pulled(), *list_damaged()] if one.repo == address.repo]
        if not everything:
            mine = [one for one in mine if one.commit == commit_of(address)]
        for one in mine:
            remove_pulled(one)
        unfinished = discard_unfinished(address.repo) if everything else 0
    if not mine and not unfinished:
        raise InputError(f"{model} is not in the cache", "See: dsmap models list")
    return mine
