"""Settings of a served model, from the configuration that Triton passes to it."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsmap.common.text import printable
from dsmap.errors import InputError
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.bundle.manifest import MANIFEST
from dsmap.runtime.triton.interface import (
    BACKEND,
    BUNDLE_FOLDER,
    BUNDLE_SHA256,
    DEFAULT_MAX_MEGAPIXELS,
    MAX_MEGAPIXELS,
    PRECISION,
    STABILISED,
    TRUST_ENGINES,
)

_YES_NO = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": False}


@dataclass(frozen=True, kw_only=True)
class ServingSettings:
    """How a model is served."""

    bundle: Path
    max_batch: int = 1
    backend: str = "auto"
    precision: str = "auto"
    trust_engines: bool = False
    max_pixels: int = int(DEFAULT_MAX_MEGAPIXELS * 1e6)
    """Of a frame, and of a style image."""
    stabilised: bool = False
    bundle_sha256: str = ""
    """The hash of bundle.json."""


def read_settings(arguments: Mapping[str, str]) -> ServingSettings:
    """The settings in what Triton passes to `initialize`; with several GPUs, the instance's own is the only one seen.

    Raises InputError for a parameter that has no meaning, and for a bundle that is not the configuration's.
    """
    config = json.loads(arguments["model_config"])
    given = {name: str(value.get("string_value", "")) for name, value in config.get("parameters", {}).items()}
    if arguments.get("model_instance_kind") == "GPU":
        os.environ["CUDA_VISIBLE_DEVICES"] = _visible(int(arguments["model_instance_device_id"]))
    bundle = Path(arguments["model_repository"], arguments["model_version"], BUNDLE_FOLDER)
    _check_same(bundle, given)
    return ServingSettings(
        bundle=bundle,
        max_batch=max(1, int(config.get("max_batch_size", 1))),
        backend=given.get(BACKEND) or "auto",
        precision=given.get(PRECISION) or "auto",
        trust_engines=_flag(given, TRUST_ENGINES),
        max_pixels=_pixels(given),
        stabilised=_flag(given, STABILISED),
        bundle_sha256=given[BUNDLE_SHA256],
    )


def _check_same(bundle: Path, given: Mapping[str, str]) -> None:
    """Raises InputError unless `bundle` is the one that the configuration describes to clients."""
    Bundle.open(bundle)
    got = hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest()
    expected = given.get(BUNDLE_SHA256, "")
    if got != expected:
        raise InputError(
            f"{printable(bundle)} is not the bundle of config.pbtxt: SHA-256 {got[:16]}...,"
            f" expected {printable(expected[:16]) or 'none'}...",
            "Write both again with dsmap export BUNDLE --triton REPOSITORY --overwrite.",
        )


def _flag(given: Mapping[str, str], name: str) -> bool:
    text = given.get(name, "")
    if text.lower() not in _YES_NO:
        raise InputError(f"the parameter {name} is {text[:100]!r}", "Write true or false in config.pbtxt.")
    return _YES_NO[text.lower()]


def _pixels(given: Mapping[str, str]) -> int:
    text = given.get(MAX_MEGAPIXELS) or str(DEFAULT_MAX_MEGAPIXELS)
    try:
        megapixels = float(text)
        if not 0 < megapixels < 1e6:
            raise ValueError
    except ValueError:
        fact = f"the parameter {MAX_MEGAPIXELS} is {text[:100]!r}"
        raise InputError(fact, "Write a number above 0 in config.pbtxt, such as 16.") from None
    return int(megapixels * 1e6)


def _visible(device: int) -> str:
    """The GPU that Triton counts as `device`, for CUDA_VISIBLE_DEVICES: a server may see only some of them itself."""
    seen: Any = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = seen.split(",") if seen else []
    return names[device] if device < len(names) else str(device)
