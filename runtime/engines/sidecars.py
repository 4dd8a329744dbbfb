"""TensorRT engines on disk: their names, the sidecars that say what they were built from, and when to trust them.

    BUNDLE/engines/decoder.winter.fp16.rtx.256x256-512x512-1920x1088.engine
    BUNDLE/engines/decoder.winter.fp16.rtx.256x256-512x512-1920x1088.engine.json

An engine runs only where it fits: the ONNX file, TensorRT's flavour and version, GPU, precision and sizes are its key.
The bytes that are used are the bytes whose hash was checked; an engine without its sidecar is never used. A sidecar
says nothing about who made an engine, which is code: `trust_fault` does.
"""

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, computed_field

from dsmap import __version__
from dsmap.common.files import read_regular
from dsmap.common.output_files import check_folder_writable
from dsmap.common.state_files import write_state
from dsmap.common.strict_json import read_json
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.bundle.bundle import ENGINE_SUFFIX, file_sha256
from dsmap.runtime.bundle.manifest import first_fault
from dsmap.runtime.engines.build import RECIPE, LayerStatistics, SizeProfile, build_plan
from dsmap.runtime.engines.progress import Progress
from dsmap.runtime.engines.tensorrt_api import Flavour, covers, current_device, engine_validity
from dsmap.runtime.engines.trust import NOT_OURS, remember_engine, was_built_here

_MAX_SIDECAR_BYTES = 1 << 20
_MAX_ENGINE_BYTES = 1 << 36
_log = logging.getLogger("dsmap")
REBUILD = "Build the engine again: dsmap-export with --engine."


Word = Annotated[str, Field(max_length=200)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class EngineKey(_Part):
    """What an engine was built from and for. Engines whose keys differ cannot stand in for each other."""

    onnx_sha256: Word
    flavour: Word = Field(description="tensorrt or rtx")
    version: Word = Field(description="of TensorRT: engines of another one are refused by it")
    architectures: tuple[Annotated[str, Field(pattern=r"^\d+\.\d+\+?$")], ...] = Field(
        description='compute capabilities: "8.6", or "8.0+" for that and later ones'
    )
    precision: Word = Field(description="fp32 or fp16")
    profile: Word = Field(description="sizes, min:opt:max or one")
    batch: int = Field(default=1, ge=1, le=1 << 20, description="the largest batch")
    device: Word = Field(
        default="",
        description="the GPU it was tuned on; none of TensorRT for RTX, which compiles where it runs",
    )
    recipe: int = Field(default=1, ge=1, le=1 << 20, description="how dsmap builds engines, see `trt_build.RECIPE`")

    @classmethod
    def of(
        cls,
        onnx_sha256: str,
        flavour: Flavour,
        architectures: tuple[str, ...],
        precision: str,
        profile: SizeProfile,
    ) -> "EngineKey":
        """The key of an engine that is to be built, or looked for."""
        return cls(
            onnx_sha256=onnx_sha256,
            flavour=flavour.name,
            version=flavour.version,
            architectures=architectures,
            precision=precision,
            profile=str(profile),
            batch=profile.max_batch,
            # Kernels are timed and chosen on one GPU: on another of the same architecture they may be slow, or not fit.
            device=(current_device() or "") if flavour.name == "tensorrt" else "",
            recipe=RECIPE,
        )

    def mismatch(self, expected: "EngineKey", *, same_architectures: bool = False) -> str | None:
        """The first thing in which an engine of this key is not what is expected, got and expected; None if it fits.

        It fits when it runs on every architecture that is expected, unless they have to be the same.
        """
        for field, what in _WORDS.items():
            got, wanted = getattr(self, field), getattr(expected, field)
            if got != wanted:
                if field == "onnx_sha256":
                    got, wanted = f"{got[:16]}...", f"{wanted[:16]}..."
                return f"{what}: {got}, expected {wanted}"
        got, wanted = self.architectures, expected.architectures
        fits = sorted(got) == sorted(wanted) if same_architectures else all(covers(got, name) for name in wanted)
        return None if fits else f"it is for another GPU architecture: {', '.join(got)}, expected {', '.join(wanted)}"


_WORDS = {
    "onnx_sha256": "it was built from another ONNX file (SHA-256)",
    "flavour": "it is of another TensorRT flavour",
    "version": "it was built by another TensorRT version",
    "precision": "its precision differs",
    "profile": "its sizes differ",
    "batch": "its largest batch differs",
    "device": "it was built on another GPU",
    "recipe": "it was built as another version of dsmap does it",
}


class Sidecar(_Part):
    """The JSON file beside an engine."""

    format_version: int = Field(default=1, ge=1, le=1)
    key: EngineKey
    engine_sha256: Word
    bytes: int = Field(ge=0, le=_MAX_ENGINE_BYTES)
    component: Word
    domain: Word
    layers: LayerStatistics
    build_seconds: float
    dsmap_version: Word
    built_at: Word = Field(description="UTC")

    @computed_field(description="None without convolutions")  # type: ignore[prop-decorator]
    @property
    def conv_half_share(self) -> float | None:
        """Of the convolutions, those that compute in half."""
        return self.layers.convolutions_half / self.layers.convolutions if self.layers.convolutions else None

    @computed_field(description="None without norms")  # type: ignore[prop-decorator]
    @property
    def norm_float32_share(self) -> float | None:
        """Of the norms, those with statistics in float32."""
        return self.layers.norms_float32 / self.layers.norms if self.layers.norms else None


class Engine(NamedTuple):
    """An engine that may be deserialised here."""

    data: bytes
    sidecar: Sidecar
    note: str = ""
    """What TensorRT has against it (it may be slower here), or why it could not be asked."""


def engine_name(component: str, domain: str, precision: str, flavour: str, profile: SizeProfile) -> str:
    """decoder.winter.fp16.rtx.256x256-512x512-1920x1088.engine; with -b4 after the sizes for batches of up to 4."""
    batch = f"-b{profile.max_batch}" if profile.max_batch > 1 else ""
    return _file_stem(component, domain, precision, flavour) + f"{str(profile).replace(':', '-')}{batch}{ENGINE_SUFFIX}"


def sidecar_path(engine: Path) -> Path:
    """Where an engine's sidecar is."""
    return engine.with_name(engine.name + ".json")


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


def read_engine(path: Path, expected: EngineKey, flavour: Flavour | None, advice: str = REBUILD) -> Engine:
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
                raise _refusal(f"{flavour.title} calls it invalid on this machine: {validity.reason}")
            note = validity.reason
    except DsmapError as refused:
        raise DsmapError(f"the engine {path} cannot be used: {refused.fact}", advice) from refused
    return Engine(data, sidecar, note)


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
    """The engine in `folder` for pictures of this size, and in one line each why the others are not taken.

    `expected` says the rest; its profile is not looked at, and its batch is the least that is wanted. Of several the
    one for the smallest sizes is taken. The hash is left to `read_engine`. `fault_of`: what else there is against an
    engine that fits.
    """
    found, reasons = [], []
    for path in sorted(folder.glob("*" + ENGINE_SUFFIX)):
        if not path.name.startswith(_file_stem(component, domain, expected.precision, expected.flavour)):
            continue
        try:
            key = read_sidecar(path).key
            profile = SizeProfile.parse(key.profile, multiple_of=1, max_batch=key.batch)
            same = expected.model_copy(update={"profile": key.profile, "batch": key.batch})
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
    """Why an engine must not be loaded unasked; None for one that was built here.

    Its sidecar's hash is looked up: `read_engine` sees to it that the engine has that hash. Raises DsmapError where the
    record of what was built here may have been written by others, or there is no sound sidecar.
    """
    return None if was_built_here(read_sidecar(engine).engine_sha256) else NOT_OURS


def read_sidecar(engine: Path) -> Sidecar:
    """What the sidecar says; nothing of it has been compared with the engine. DsmapError when it says nothing."""
    path = sidecar_path(engine)
    if not os.path.lexists(path):
        raise _refusal("it has no sidecar, so what it was built from is unknown")
    try:
        return Sidecar.model_validate(read_json(path, limit=_MAX_SIDECAR_BYTES, what="its sidecar", advice=REBUILD))
    except InputError as error:
        raise _refusal(f"its sidecar is damaged or not dsmap's: {error.fact}") from error
    except ValidationError as error:
        raise _refusal(f"its sidecar is damaged or not dsmap's: {first_fault(error)}") from error


def build_engine(
    onnx: bytes | Path,
    out_path: Path,
    *,
    component: str,
    domain: str,
    precision: str,
    profile: SizeProfile,
    flavour: Flavour,
    architectures: tuple[str, ...],
    progress: Progress | None = None,
    option: str = "-o",
) -> Sidecar:
    """Builds the engine of a graph (a file or its bytes), and writes it with its sidecar into the folder of `out_path`.

    From then on it is known as built here; where that cannot be written down, a warning says so.

    Raises DsmapError for a graph that TensorRT or the precision gate refuses and for a full disk, InputError for a
    folder that takes no files (`option` chooses another), KeyboardInterrupt on Ctrl-C. Nothing half-made is left.
    """
    data = onnx if isinstance(onnx, bytes) else onnx.read_bytes()
    check_folder_writable(out_path.parent, option)
    # An engine holds the weights, and code: with less than that there is no use in starting.
    if (free := shutil.disk_usage(out_path.parent).free) < len(data):
        raise _no_space(out_path, len(data), free)
    plan = build_plan(
        data,
        f"{component}.{domain}" if isinstance(onnx, bytes) else onnx.name,
        flavour=flavour,
        profile=profile,
        precision=precision,
        architectures=architectures,
        progress=progress,
    )
    sidecar = Sidecar(
        key=EngineKey.of(hashlib.sha256(data).hexdigest(), flavour, architectures, precision, profile),
        engine_sha256=hashlib.sha256(plan.data).hexdigest(),
        bytes=len(plan.data),
        component=component,
        domain=domain,
        layers=plan.layers,
        build_seconds=round(plan.seconds, 3),
        dsmap_version=__version__,
        built_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    # The engine first: until its sidecar follows, an old one's hash does not match it, and it is not used.
    _write_whole(out_path, plan.data)
    _write_whole(sidecar_path(out_path), sidecar.model_dump_json(indent=1).encode() + b"\n")
    try:
        remember_engine(sidecar.engine_sha256, out_path)
    except (DsmapError, OSError) as error:
        reason = error.fact if isinstance(error, DsmapError) else error.strerror
        _log.warning(
            "%s: not kept on record as built here (%s); running it needs --trust-engines", out_path.name, reason
        )
    return sidecar


def _refusal(reason: str) -> DsmapError:
    return DsmapError(reason, REBUILD)


def _checked_sidecar(path: Path, expected: EngineKey, same_architectures: bool = False) -> Sidecar:
    if not path.is_file():
        raise _refusal("it does not exist")
    sidecar = read_sidecar(path)
    if reason := sidecar.key.mismatch(expected, same_architectures=same_architectures):
        raise _refusal(reason)
    return sidecar


def _check_bytes(sidecar: Sidecar, size: int, sha256: str) -> None:
    if size != sidecar.bytes:
        raise _refusal(f"it is damaged: {size} bytes, expected {sidecar.bytes}")
    if sha256 != sidecar.engine_sha256:
        raise _refusal(
            f"it is damaged or another file: SHA-256 {sha256[:16]}..., expected {sidecar.engine_sha256[:16]}..."
        )


def _file_stem(component: str, domain: str, precision: str, flavour: str) -> str:
    """The name up to the sizes. Bundles name their domains: no such name may lead out of the folder."""
    return "".join(re.sub(r"[^\w-]+", "-", word) + "." for word in (component, domain, precision, flavour))


def _write_whole(path: Path, data: bytes) -> None:
    """Writes a file beside and renames it, never through a link; DsmapError when there is no room."""
    try:
        write_state(path, data)
    except OSError as error:
        raise _no_space(path, len(data), shutil.disk_usage(path.parent).free, error.strerror or str(error)) from error


def _no_space(path: Path, needed: int, free: int, reason: str = "no space") -> DsmapError:
    sizes = f"{needed / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB free"
    return DsmapError(
        f"cannot write {path.name} into {path.parent}: {reason}; {sizes}",
        "Make room there, or choose a folder on another disk.",
    )
