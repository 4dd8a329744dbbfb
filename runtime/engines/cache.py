"""Paths of the engines that the runtime builds on demand, in the user's cache."""

import hashlib
from pathlib import Path

from dsmap.common.cache_folder import VARIABLE, private_folder, user_cache_folder
from dsmap.common.output_files import check_folder_writable
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.bundle.bundle import ENGINE_SUFFIX, ENGINES
from dsmap.runtime.engines.sidecars import EngineKey, engine_name
from dsmap.runtime.engines.size_profile import SizeProfile


def cached_engine_path(key: EngineKey, component: str, domain: str) -> Path:
    """Where the engine of a key is or will be. The key's hash is in the name, so that engines do not collide."""
    text = "\n".join([component, domain, key.model_dump_json()])
    profile = SizeProfile.parse(key.profile, multiple_of=1, max_batch=key.batch)
    name = engine_name(component, domain, key.precision, key.flavour, profile)
    short = hashlib.sha256(text.encode()).hexdigest()[:10]
    return user_cache_folder() / ENGINES / f"{name.removesuffix(ENGINE_SUFFIX)}.{short}{ENGINE_SUFFIX}"


def make_cache_folder() -> Path:
    """Makes the cache's engine folder; DsmapError where it is not writable, or not this user's alone."""
    folder = private_folder(ENGINES)
    try:
        check_folder_writable(folder, VARIABLE)
    except InputError as error:
        raise DsmapError(error.fact, error.advice) from error
    return folder
