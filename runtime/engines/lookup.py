"""Engines on disk, found and checked.

The bytes that are used are the bytes whose hash was checked; an engine without its sidecar is never used.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from dsmap.common.files import read_regular
from dsmap.errors import DsmapError
from dsmap.runtime.bundle.bundle import ENGINE_SUFFIX, file_sha256
from dsmap.runtime.engines.sidecars import REBUILD, EngineKey, Sidecar, file_stem, read_sidecar, refusal
from dsmap.runtime.engines.size_profile import SizeProfile
from dsmap.runtime.engines.tensorrt_api import Flavour, engine_validity
from dsmap.runtime.engines.trust import NOT_OURS, was_built_here


class CheckedEngine(NamedTuple):
    """An engine that may be deserialised here."""

    data: bytes
    sidecar: Sidecar
    note: str = ""
    """TensorRT's objection (it may be slower here), or why it could not be asked."""


def check_engine(path: Path, expected: EngineKey, *, same_architectures: bool = False) -> str | None:
    """Why the engine must not be used, in one line; None when its sidecar and hash are as expected."""
    try:
        sidecar = _checked_sidecar(path, expected, same_architectures)
        _check_bytes(sidecar, path.stat().st_size, file_sha256(path))
    except DsmapError as refused:
        return refused.fact
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    return None


def read_engine(path: Path, expected: EngineKey, flavour: Flavour | None, advice: str = REBUILD) -> CheckedEngine:
    """The engine's bytes, when they may be deserialised by `flavour`; None asks no TensorRT.

    Raises DsmapError with the reason, and `advice` as what to do.
    """
    try:
        sidecar = _checked_sidecar(path, expected)
        data = read_regular(path, limit=sidecar.bytes, what="the engine")
        _check_bytes(sidecar, len(data), hashlib.sha256(data).hexdigest())
        note = ""
        if flavour is not None:
            validity = engine_validity(flavour, data)
            if validity.word == "invalid":
                raise refusal(f"{flavour.title} calls it invalid on this machine: {validity.reason}")
            note = validity.reason
    except DsmapError as refused:
        raise DsmapError(f"the engine {path} cannot be used: {refused.fact}", advice) from refused
    return CheckedEngine(data, sidecar, note)


def find_engine(
    folder: Path,
    component: str,
    domain: str,
    expected: EngineKey,
    *,
    width: int,
    height: int,
    fault_of: Callable[[Path], str | None] | None = None,
) -> tuple[Path | None, list[str]]:
    """The engine in `folder` for frames of this size, and in one line each why the others are not taken.

    `expected` says the rest; its profile and level are not looked at, and its batch is the least wanted. Of several the
    one for the smallest sizes is taken. The hash is left to `read_engine`. `fault_of`: any other fault of an
    engine that fits.
    """
    found, reasons = [], []
    for path in sorted(folder.glob("*" + ENGINE_SUFFIX)):
        if not path.name.startswith(file_stem(component, domain, expected.precision, expected.flavour)):
            continue
        try:
            key = read_sidecar(path).key
            profile = SizeProfile.parse(key.profile, multiple_of=1, max_batch=key.batch)
            same = expected.model_copy(update={"profile": key.profile, "batch": key.batch, "level": key.level})
            reason = key.mismatch(same)
            if reason is None and not profile.takes(width, height, expected.batch):
                reason = (
                    f"it is for {profile} in batches of up to {key.batch}, not for {expected.batch} of {width}x{height}"
                )
            if reason is None and fault_of is not None:
                reason = fault_of(path)
        except DsmapError as error:
            reason = error.fact
        if reason is None:
            found.append((profile.maximum.width * profile.maximum.height, path))
        else:
            reasons.append(f"{path.name}: {reason}")
    return (min(found)[1] if found else None), reasons


def trust_fault(engine: Path) -> str | None:
    """Why an engine must not be loaded by default; None for one that was built here.

    Its sidecar's hash is looked up: `read_engine` sees to it that the engine has that hash. Raises DsmapError where the
    record of what was built here may have been written by others, or the sidecar is missing or damaged.
    """
    return None if was_built_here(read_sidecar(engine).engine_sha256) else NOT_OURS


def _checked_sidecar(path: Path, expected: EngineKey, same_architectures: bool = False) -> Sidecar:
    if not path.is_file():
        raise refusal("it does not exist")
    sidecar = read_sidecar(path)
    if reason := sidecar.key.mismatch(expected, same_architectures=same_architectures):
        raise refusal(reason)
    return sidecar


def _check_bytes(sidecar: Sidecar, size: int, sha256: str) -> None:
    if size != sidecar.bytes:
        raise refusal(f"it is damaged: {size} bytes, expected {sidecar.bytes}")
    if sha256 != sidecar.engine_sha256:
        raise refusal(
            f"it is damaged or another file: SHA-256 {sha256[:16]}..., expected {sidecar.engine_sha256[:16]}..."
        )
