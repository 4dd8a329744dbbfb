"""Engines that the runtime builds when they are needed: in a folder of the user's, out of the way of bundles."""

import hashlib
import os
import sys
from pathlib import Path

from dsmap.common.files import check_folder_writable
from dsmap.errors import DsmapError
from dsmap.runtime.bundle import ENGINE_SUFFIX, ENGINES
from dsmap.runtime.bundle_engines import EngineKey, engine_name
from dsmap.trt_build import SizeProfile

VARIABLE = "DSMAP_CACHE"


def user_cache_folder() -> Path:
    """Where this user's engines go: $DSMAP_CACHE, or where the system keeps such things. It may not exist yet."""
    if own := os.environ.get(VARIABLE):
        return Path(own).expanduser()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "dsmap" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "dsmap"
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(xdg) if os.path.isabs(xdg) else Path.home() / ".cache") / "dsmap"  # the standard: relative is ignored


def cached_engine_path(key: EngineKey, component: str, domain: str) -> Path:
    """Where the engine of a key is or will be. Its hash is in the name: engines of several keys live together."""
    text = "\n".join([component, domain, key.model_dump_json()])
    profile = SizeProfile.parse(key.profile, multiple_of=1, max_batch=key.batch)
    name = engine_name(component, domain, key.precision, key.flavour, profile)
    short = hashlib.sha256(text.encode()).hexdigest()[:10]
    return user_cache_folder() / ENGINES / f"{name.removesuffix(ENGINE_SUFFIX)}.{short}{ENGINE_SUFFIX}"


def make_cache_folder() -> Path:
    """Makes the cache's engine folder and tries it. DsmapError when it cannot be made or written to."""
    folder = user_cache_folder() / ENGINES
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DsmapError(
            f"cannot make the cache folder {folder}: {error.strerror or error}",
            f"Set {VARIABLE} to a folder of yours with room for engines.",
        ) from error
    check_folder_writable(folder, VARIABLE)
    return folder
