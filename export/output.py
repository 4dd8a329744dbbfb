"""Where a bundle may be written. Light, so that a command can tell before torch is loaded."""

from pathlib import Path

from dsmap.common.files import check_folder_writable
from dsmap.errors import InputError
from dsmap.runtime.bundle import ENGINE_SUFFIX, ENGINES, MANIFEST


def check_bundle_folder(out: Path, *, overwrite: bool) -> None:
    """Raises InputError unless the bundle `out` may be written: nothing but a bundle is ever replaced."""
    check_folder_writable(out.absolute().parent, "-o")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MANIFEST).is_file():
        raise InputError(f"{out} exists and is not a bundle", "Choose another -o.")
    if not overwrite:
        raise InputError(f"{out} exists", "Pass --overwrite to replace it, or choose another -o.")
    foreign = [path.name for path in sorted(out.iterdir()) if not _is_of_a_bundle(path)]
    if foreign:
        raise InputError(
            f"{out} holds {foreign[0]}, which is not of a bundle and would be lost", "Move it, or choose another -o."
        )


def _is_of_a_bundle(path: Path) -> bool:
    """Whether `path`, in a bundle's folder, is something that an export has written."""
    if path.name == ENGINES and path.is_dir():
        return all(p.name.endswith((ENGINE_SUFFIX, f"{ENGINE_SUFFIX}.json")) for p in path.iterdir())
    return path.name == MANIFEST or path.suffix == ".onnx"
