"""Writes a bundle's graphs as models of Triton Inference Server, for servers without dsmap: Triton's own backends run
them, ONNX Runtime or TensorRT.

    REPOSITORY/
      summer-winter-to-winter/                 an ensemble: frames and a style code in, frames out
      summer-winter-to-summer/
      summer-winter-content-encoder-summer/    its steps, a graph each
      summer-winter-style-mlp-winter/
      summer-winter-mapping-winter/
      summer-winter-decoder-winter/
      summer-winter-style-encoder-winter/      images in, style codes out
      ...

The graphs take and give uint8 RGB frames (N, H, W, 3) themselves. A client pads frames to the multiple of pixels that
the ensemble's parameters name, and crops the result.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dsmap.common.notify import Notify
from dsmap.common.text import counted
from dsmap.export.triton import WrittenTritonModels
from dsmap.export.triton_changes import KeptConfig, config_to_write
from dsmap.export.triton_ensemble import ServerModel, models_of
from dsmap.export.triton_folder import CONFIG, check_max_batch, check_model_folder
from dsmap.export.triton_writer import checked_repository, write_model_folders
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.triton.interface import DEFAULT_MAX_BATCH


@dataclass(frozen=True, kw_only=True)
class TritonPartsRequest:
    """The graphs of a bundle, to be added to a model repository."""

    bundle: Path
    repository: Path
    kind: str = "onnx"
    """onnx; or tensorrt for the engines that the bundle has, which fit one version of TensorRT and one GPU."""
    precision: str | None = None
    """None: fp32; for tensorrt fp16 where the bundle has it, as its engines were built."""
    name: str | None = None
    """What the names of the models begin with; None: the bundle's."""
    max_batch: int = DEFAULT_MAX_BATCH
    """Frames that the server computes at a time; engines may allow fewer."""
    overwrite: bool = False
    """Replace the models if they are there already; nothing but models that dsmap has written is ever replaced."""


def write_triton_parts(request: TritonPartsRequest, *, notify: Notify = lambda _line: None) -> WrittenTritonModels:
    """Adds the models to the repository, which is created if it is not there, the ensembles last.

    Raises InputError for a bundle that is damaged or lacks the engines, a name that cannot be a folder's, and folders
    that hold anything but such models; DsmapError when a file cannot be written.
    """
    check_max_batch(request.max_batch)
    bundle = Bundle.read(request.bundle)
    name = request.name or bundle.manifest.name
    repository = checked_repository(request.repository, name, bundle)
    precision = request.precision or ("fp16" if request.kind == "tensorrt" and "fp16" in bundle.precisions else "fp32")
    models = models_of(bundle, name, request.kind, precision, request.max_batch)
    for model in models:
        check_model_folder(repository / model.name, overwrite=request.overwrite)
    configs = [config_to_write(repository / model.name / CONFIG, model.config) for model in models]
    fills = {repository / model.name: _filler(model, config) for model, config in zip(models, configs, strict=True)}
    size = sum(write_model_folders(fills, overwrite=request.overwrite).values())
    own = sum(bool(config.kept) for config in configs)
    changed = f", {counted(own, 'model')} with an instance_group of its own" if own else ""
    notify(f"wrote {len(models)} models into {repository} ({size / 1e6:.1f} MB){changed}")
    return WrittenTritonModels(folders=tuple(repository / model.name for model in models), bytes=size)


def _filler(model: ServerModel, config: KeptConfig) -> Callable[[Path], None]:
    def fill(part: Path) -> None:
        (part / "1").mkdir(parents=True)  # of an ensemble it stays empty, and Triton asks for it
        (part / CONFIG).write_bytes(config.text.encode())
        if model.file is not None:
            name, data = model.file
            (part / "1" / name).write_bytes(data)

    return fill
