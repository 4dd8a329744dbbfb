"""Where a bundle may be written. Light, so that a command can tell before torch is loaded."""

from pathlib import Path

from dsmap.errors import InputError
from dsmap.folders import check_folder_writable
from dsmap.runtime.bundle import MANIFEST


def check_bundle_folder(out: Path, *, overwrite: bool) -> None:
    """Raises InputError unless the bundle `out` may be written: nothing but a bundle is ever replaced."""
    check_folder_writable(out.absolute().parent, "-o")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MANIFEST).is_file():
        raise InputError(f"{out} exists and is not a bundle", "Choose another -o.")
    if not overwrite:
        raise InputError(f"{out} exists", "Pass --overwrite to replace it, or choose another -o.")
    foreign = [path.name for path in sorted(out.iterdir()) if path.name != MANIFEST and path.suffix != ".onnx"]
    if foreign:
        raise InputError(
            f"{out} holds {foreign[0]}, which is not of a bundle and would be lost", "Move it, or choose another -o."
        )
