"""Checks of the memory and the cores that this process may use, and of the cache folder."""

import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

from dsmap.common.cpu import cpu_quota, usable_cpus
from dsmap.common.files import read_regular
from dsmap.common.memory import available_bytes
from dsmap.common.output_files import check_folder_writable
from dsmap.errors import DsmapError
from dsmap.runtime.doctor import Finding, failed, first_line, not_tried, ok, warning
from dsmap.runtime.system.cpu import cpu_name
from dsmap.runtime.system.memory import memory_width, translation_bytes
from dsmap.runtime.system.subprocess_call import isolated

_SIZES = ((3840, 2160), (2560, 1440), (1920, 1080), (1280, 720), (640, 360), (256, 256))
MORE_MEMORY = "close other programs, or raise the limit (ulimit -v, docker -m)"
"""Not one command: what uses the memory is not known."""
_MIN_FREE = 500e6  # bytes: an engine of the published network is 75 MB


def check_memory(model: str) -> Finding:
    """Memory and cores, and the largest common frame size that fits into memory."""
    cores, quota = usable_cpus(), cpu_quota()
    limited = quota is not None and quota <= cores
    told = f"{cores} core{'s' if cores > 1 else ''}" + (f" ({quota:g} by quota)" if limited else "")
    details: dict[str, Any] = {"cores": cores, "cpu_quota": quota, "cpu": cpu_name()}
    available = available_bytes()
    if available is None:
        return ok(f"{told} ({cpu_name()}); free memory is not known on this system", **details)
    free = f"{available / 1e9:.1f} GB free"
    dim = _dim(model)
    fits = next((size for size in _SIZES if translation_bytes(size[1], size[0], batch=1, dim=dim) <= available), None)
    details |= {"available_bytes": available, "largest_picture": None if fits is None else list(fits)}
    if fits is None:
        least = translation_bytes(_SIZES[-1][1], _SIZES[-1][0], batch=1, dim=dim)
        needed = f"a frame of 256x256 needs {least / 1e9:.2f} GB"
        return failed(f"{free}; {needed}", MORE_MEMORY, **details)
    return ok(f"{free}, {told}; room for frames of {fits[0]}x{fits[1]}", **details)


def _dim(model: str) -> int:
    """The network's width, from a bundle that need not be whole."""
    try:
        from dsmap.runtime.bundle.bundle import read_manifest
        from dsmap.runtime.bundle.bundled import find_model

        return memory_width(read_manifest(find_model(model)).architecture)
    except Exception:  # reported by the checks of the model and the packages
        return memory_width({})


def check_cache() -> Finding:
    """That the cache folder is writable and has room; engines in it that nothing installed can run any more."""
    try:
        from dsmap.common.cache_folder import VARIABLE, folder_fault, user_cache_folder
    except ImportError as error:
        return not_tried(f"{(error.name or first_line(error)).partition('.')[0]} cannot be imported")
    folder = user_cache_folder()
    try:
        place = next(path for path in (folder, *folder.parents) if os.path.exists(path))
        if not place.is_dir():
            return warning(f"{place} is a file: engines cannot be kept", _cache_command(folder, VARIABLE))
        check_folder_writable(place, VARIABLE)
        free = shutil.disk_usage(place).free
    except (DsmapError, OSError) as error:
        reason = error.fact if isinstance(error, DsmapError) else first_line(error)
        return warning(f"{reason}: engines cannot be kept", _cache_command(folder, VARIABLE), folder=str(folder))
    for path in (folder, folder / "engines"):
        if os.path.lexists(path) and (fault := folder_fault(path)):
            return warning(
                f"{fault.fact}: its engines are not used", _cache_command(folder, VARIABLE), folder=str(folder)
            )
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    size = sum(path.stat().st_size for path in files)
    details: dict[str, Any] = {"folder": str(folder), "bytes": size, "files": len(files), "free_bytes": free}
    stale = stale_engines(folder)
    held = f"{folder}, {size / 1e6:.0f} MB in {len(files)} files" if files else f"{folder}, empty"
    if stale:
        paths = " ".join(shlex.quote(str(path)) + "*" for path in stale)
        lost = sum(path.stat().st_size for path in stale) / 1e6
        told = f"{held}; of them {len(stale)} engines of another TensorRT ({lost:.0f} MB)"
        return warning(told, f"rm {paths}", stale=[str(path) for path in stale], **details)
    if free < _MIN_FREE:
        return warning(f"{held}; only {free / 1e6:.0f} MB are free", f"export {VARIABLE}=FOLDER-OF-YOURS", **details)
    return ok(f"{held}; {free / 1e9:.0f} GB free", **details)


def _cache_command(folder: Path, variable: str) -> str:
    """The command for a cache that cannot be used: unset the variable, or take back folders that root has made."""
    if os.environ.get(variable):
        return f"unset {variable}"
    home = Path.home()
    uid = os.getuid() if hasattr(os, "getuid") else None
    ours = (path for path in (folder, *folder.parents) if path.is_relative_to(home) and path != home)
    inside = [path for path in ours if os.path.exists(path)]  # Path's own raises where it may not look
    if uid and inside and inside[0].stat().st_uid != uid:
        return f"sudo chown -R $USER {shlex.quote(str(inside[0]))}"
    return f"export {variable}=FOLDER-OF-YOURS"


def stale_engines(folder: Path) -> list[Path]:
    """Engines in the cache that were built by another version of a TensorRT that is installed."""
    sidecars = sorted(folder.rglob("*.engine.json")) if folder.is_dir() else []
    if not sidecars:
        return []
    versions = {}
    for flavour in ("tensorrt", "rtx"):
        outcome = isolated("dsmap.runtime.doctor.gpu:load_flavour", 30, nested=True, name=flavour)
        if isinstance(outcome.value, dict) and "version" in outcome.value:
            versions[flavour] = outcome.value["version"]
    stale = []
    for path in sidecars:
        engine = path.with_name(path.name.removesuffix(".json"))
        try:
            key = json.loads(read_regular(path, limit=1 << 20, what="the sidecar"))["key"]
            if engine.exists() and key["version"] != versions.get(key["flavour"], key["version"]):
                stale.append(engine)
        except (DsmapError, ValueError, KeyError, TypeError, RecursionError):
            continue
    return stale
