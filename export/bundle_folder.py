"""Checks whether a bundle may be written to a folder. Light: commands use it before torch is loaded."""

import os
from pathlib import Path

from dsmap.common.files import is_regular
from dsmap.common.output_files import check_folder_writable, check_name
from dsmap.common.part_files import is_part_name
from dsmap.errors import InputError
from dsmap.runtime.bundle.bundle import ENGINE_SUFFIX, ENGINES, File, file_sha256, read_manifest
from dsmap.runtime.bundle.card import SAMPLES
from dsmap.runtime.bundle.manifest import MANIFEST


def check_bundle_folder(out: Path, *, overwrite: bool, option: str = "-o") -> None:
    """Raises InputError unless the bundle `out` may be written: nothing but a bundle is ever replaced.

    An existing bundle may hold only engines and files that its bundle.json names, since the whole folder is replaced.
    """
    check_name(out, option)
    check_folder_writable(Path(os.path.realpath(out)).parent, option)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MANIFEST).is_file():
        raise InputError(f"{out} exists and is not a bundle", f"Choose another {option}.")
    if not overwrite:
        raise InputError(f"{out} exists", f"Pass --overwrite to replace it, or choose another {option}.")
    if foreign := _foreign(out):
        raise InputError(
            f"{out} holds {foreign}, which is not part of the bundle and would be lost",
            f"Move it, or choose another {option}.",
        )


def _foreign(out: Path) -> str | None:
    """The name of something in the folder `out` that is not part of the bundle; None if there is nothing."""
    try:
        manifest = read_manifest(out)
    except InputError as error:
        raise InputError(f"{out} cannot be replaced: {error.fact}", "Remove it yourself, or choose another.") from error
    written = {file.path for file in manifest.files()} | {MANIFEST}
    written |= {file.path for file in manifest.extras if is_as_written(out / file.path, file)}
    for path in sorted(out.iterdir()):
        if path.name == ENGINES and path.is_dir() and not path.is_symlink():
            others = [one for one in sorted(path.iterdir()) if not _is_engine(one)]
            if others:
                return f"{ENGINES}/{others[0].name}"
        elif path.name == SAMPLES and path.is_dir() and not path.is_symlink():
            if others := [one for one in sorted(path.iterdir()) if f"{SAMPLES}/{one.name}" not in written]:
                return f"{SAMPLES}/{others[0].name}"
        elif not is_regular(path) or not (path.name in written or is_part_name(path.name)):
            return path.name
    return None


def is_as_written(path: Path, file: File) -> bool:
    """Whether nobody has changed a document since it was written: a card that was edited is not replaced."""
    return is_regular(path) and path.stat().st_size == file.bytes and file_sha256(path) == file.sha256


def _is_engine(path: Path) -> bool:
    named = path.name.endswith((ENGINE_SUFFIX, f"{ENGINE_SUFFIX}.json")) or is_part_name(path.name)
    return named and is_regular(path)
