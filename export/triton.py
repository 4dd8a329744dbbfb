"""Writes a bundle as models of Triton Inference Server, for its Python backend.

    REPOSITORY/
      summer-winter/
        config.pbtxt
        1/model.py          what Triton runs; it imports dsmap from the server's Python
        1/bundle/           the bundle, copied: the folder needs nothing else
        warmup/             what the model translates before it is ready
      summer-winter-stabilised/   the same for videos: the frames of a sequence are stabilized

A model's folder appears whole or not at all, so that a server that polls the repository may run meanwhile.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dsmap.common.notify import Notify
from dsmap.common.output_files import is_inside
from dsmap.export.bundle_folder import is_as_written
from dsmap.export.triton_changes import KeptConfig, config_to_write
from dsmap.export.triton_config import model_config, warm_up_files
from dsmap.export.triton_folder import CONFIG, WARM_UP, check_max_batch, check_model_folder
from dsmap.export.triton_writer import checked_repository, write_model_folders
from dsmap.runtime.bundle.bundle import ENGINE_SUFFIX, ENGINES, Bundle
from dsmap.runtime.bundle.manifest import MANIFEST
from dsmap.runtime.triton import interface as served

_MODEL = Path(served.__file__).with_name("model.py")


@dataclass(frozen=True, kw_only=True)
class TritonRequest:
    """A bundle to add to a model repository."""

    bundle: Path
    repository: Path
    name: str | None = None
    """Of the model; None: the bundle's."""
    max_batch: int = served.DEFAULT_MAX_BATCH
    """Frames that the server hands over at a time."""
    overwrite: bool = False
    """Replace the models if they are there already; nothing but models that dsmap has written is ever replaced."""


@dataclass(frozen=True, kw_only=True)
class WrittenTritonModels:
    """What was written."""

    folders: tuple[Path, ...]
    bytes: int


def write_triton_models(request: TritonRequest, *, notify: Notify = lambda _line: None) -> WrittenTritonModels:
    """Adds the models of a bundle to the repository, which is created if it is not there.

    Raises InputError for a largest batch that is not 1 to MAX_BATCH, a bundle that is damaged,
    a name that cannot be a folder's, and folders that hold anything
    but such models; DsmapError when a file cannot be written. What was there before is then as it was.
    """
    check_max_batch(request.max_batch)
    bundle = Bundle.read(request.bundle)
    name = request.name or bundle.manifest.name
    repository = checked_repository(request.repository, name, bundle)
    folders = {stabilised: repository / (name + served.STABILISED_SUFFIX * stabilised) for stabilised in (False, True)}
    for folder in folders.values():
        check_model_folder(folder, overwrite=request.overwrite)
    configs = {
        folder: _config(bundle, folder, request.max_batch, stabilised=stabilised)
        for stabilised, folder in folders.items()
    }
    fills = {folder: _filler(bundle, config.text) for folder, config in configs.items()}
    sizes = write_model_folders(fills, overwrite=request.overwrite)
    for folder, size in sizes.items():
        kept = configs[folder].kept
        notify(f"wrote {folder} ({size / 1e6:.1f} MB)" + (f", with its own {', '.join(kept)}" if kept else ""))
    return WrittenTritonModels(folders=tuple(sizes), bytes=sum(sizes.values()))


def _config(bundle: Bundle, folder: Path, max_batch: int, *, stabilised: bool) -> KeptConfig:
    text = (bundle.folder / MANIFEST).read_bytes().decode()
    config = model_config(bundle.manifest, text, name=folder.name, max_batch=max_batch, stabilised=stabilised)
    return config_to_write(folder / CONFIG, config)


def _filler(bundle: Bundle, config: str) -> Callable[[Path], None]:
    def fill(part: Path) -> None:
        _copy_bundle(bundle, part / "1" / served.BUNDLE_FOLDER)
        shutil.copyfile(_MODEL, part / "1" / _MODEL.name)
        # Where Python would keep the compiled file: a server that polls would take it for a change, and load again.
        (part / "1" / "__pycache__").touch()
        (part / CONFIG).write_bytes(config.encode())
        (part / WARM_UP).mkdir()
        for file, data in warm_up_files(bundle.manifest).items():
            (part / WARM_UP / file).write_bytes(data)

    return fill


def _copy_bundle(bundle: Bundle, folder: Path) -> None:
    """Copies what belongs to a bundle, and checks the copy; a card that somebody has edited stays where it is."""
    files = [MANIFEST, *dict.fromkeys(file.path for file in bundle.manifest.files())]
    for extra in bundle.manifest.extras:
        path = bundle.folder / extra.path
        leaves = os.path.isabs(extra.path) or ".." in extra.path.split("/") or not is_inside(path, bundle.folder)
        if not leaves and is_as_written(path, extra):
            files.append(extra.path)
    engines = bundle.folder / ENGINES
    if engines.is_dir():
        names = sorted(os.listdir(engines))
        files += [f"{ENGINES}/{name}" for name in names if name.endswith((ENGINE_SUFFIX, f"{ENGINE_SUFFIX}.json"))]
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.folder / name, folder / name)
    Bundle.read(folder)
