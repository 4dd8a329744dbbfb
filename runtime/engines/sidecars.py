"""Sidecars: the JSON file beside an engine that says what it was built from, and the names of both.

    BUNDLE/engines/decoder.winter.fp16.rtx.256x256-512x512-1920x1088.engine
    BUNDLE/engines/decoder.winter.fp16.rtx.256x256-512x512-1920x1088.engine.json

An engine runs only where it fits: the ONNX file, TensorRT's flavour and version, GPU, precision and sizes are its key.
A sidecar says nothing about who made an engine, which is code: see `trust`.
"""

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, computed_field

from dsmap.common.strict_json import read_json
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.bundle.bundle import ENGINE_SUFFIX
from dsmap.runtime.bundle.manifest import first_fault
from dsmap.runtime.engines.build_options import DEFAULT_BUILD, LEVELS, BuildOptions
from dsmap.runtime.engines.layer_statistics import LayerStatistics
from dsmap.runtime.engines.size_profile import SizeProfile
from dsmap.runtime.engines.tensorrt_api import Flavour, covers, current_device

RECIPE = 2
"""Version of how `build` makes engines: raised with every change of flags, types or profiles, so that old engines are
not used."""
REBUILD = "Build the engine again: dsmap-export with --engine."
_MAX_SIDECAR_BYTES = 1 << 20
_MAX_ENGINE_BYTES = 1 << 36


Word = Annotated[str, Field(max_length=200)]


class _SidecarPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class EngineKey(_SidecarPart):
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
    level: int | None = Field(
        default=None, ge=LEVELS[0], le=LEVELS[-1], description="optimisation level, if one was set"
    )
    tf32: bool = Field(default=True, description="float32 products may be rounded to TF32")
    recipe: int = Field(default=1, ge=1, le=1 << 20, description="how dsmap builds engines, see `RECIPE`")

    @classmethod
    def of(
        cls,
        onnx_sha256: str,
        flavour: Flavour,
        architectures: tuple[str, ...],
        precision: str,
        profile: SizeProfile,
        build: BuildOptions = DEFAULT_BUILD,
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
            level=build.level,
            tf32=build.tf32,
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
    "level": "it was built at another optimisation level",
    "tf32": "it was built for other products of float32 (TF32)",
    "recipe": "it was built as another version of dsmap does it",
}


class Sidecar(_SidecarPart):
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


def engine_name(component: str, domain: str, precision: str, flavour: str, profile: SizeProfile) -> str:
    """decoder.winter.fp16.rtx.256x256-512x512-1920x1088.engine; with -b4 after the sizes for batches of up to 4."""
    batch = f"-b{profile.max_batch}" if profile.max_batch > 1 else ""
    return file_stem(component, domain, precision, flavour) + f"{str(profile).replace(':', '-')}{batch}{ENGINE_SUFFIX}"


def sidecar_path(engine: Path) -> Path:
    """Where an engine's sidecar is."""
    return engine.with_name(engine.name + ".json")


def read_sidecar(engine: Path) -> Sidecar:
    """What the sidecar says; nothing of it has been compared with the engine. DsmapError when it says nothing."""
    path = sidecar_path(engine)
    if not os.path.lexists(path):
        raise refusal("it has no sidecar, so what it was built from is unknown")
    try:
        return Sidecar.model_validate(read_json(path, limit=_MAX_SIDECAR_BYTES, what="its sidecar", advice=REBUILD))
    except InputError as error:
        raise refusal(f"its sidecar is damaged or not dsmap's: {error.fact}") from error
    except ValidationError as error:
        raise refusal(f"its sidecar is damaged or not dsmap's: {first_fault(error)}") from error


def file_stem(component: str, domain: str, precision: str, flavour: str) -> str:
    """The name up to the sizes. Bundles name their domains: no such name may lead out of the folder."""
    return "".join(re.sub(r"[^\w-]+", "-", word) + "." for word in (component, domain, precision, flavour))


def refusal(reason: str) -> DsmapError:
    return DsmapError(reason, REBUILD)
