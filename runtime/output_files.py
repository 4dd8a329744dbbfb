"""Where results go: names, and checks made before any work so that nothing is overwritten or lost."""

import itertools
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from dsmap.common.files import check_folder_writable, cut_name, rename_to_free, sync_folder
from dsmap.common.output_files import Identity, check_name, identity
from dsmap.errors import InputError

__all__ = ["Identity", "check_name", "identity"]

LONGEST_NAME = 255
"""Bytes of a file's name that common systems take."""


def check_kept_apart(output: Path, inputs: Mapping[Identity, str], bundle: Path, *, option: str) -> None:
    """Raise InputError when `output` is one of `inputs` (each with what to call it) or lies in the model's folder."""
    if name := inputs.get(identity(output)):
        raise InputError(f"{output} is {name}", f"choose another name with {option}")
    if lies_in(output, bundle):
        raise InputError(f"{output} lies in the model's folder {bundle}", f"choose another place with {option}")


def lies_in(path: Path, folder: Path) -> bool:
    """Whether `path` leads to something in `folder`, or to the folder itself."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def numbered(path: Path) -> Iterator[Path]:
    """`path`, then NAME-2, NAME-3 and so on."""
    yield path
    for number in itertools.count(2):
        end = f"-{number}{path.suffix}"
        yield path.with_name(cut_name(path.stem, LONGEST_NAME - len(os.fsencode(end))) + end)


def keep_beside(part: Path, output: Path) -> Path:
    """Names a finished file or folder, whose own name could not be had, NAME-2 and so on; says where it is then."""
    for path in itertools.islice(numbered(output), 1, 1000):
        try:
            rename_to_free(part, path)
        except FileExistsError:
            continue
        except OSError:
            break
        sync_folder(path.parent)
        return path
    return part


def default_output(source: Path, domain: str, suffix: str) -> Path:
    """NAME-DOMAIN beside the input. `suffix` has its dot, and is "" for a folder."""
    source = source.absolute()
    name = source.name if source.is_dir() else source.stem
    end = "-" + re.sub(r"[^\w.-]+", "-", domain) + suffix
    return source.parent / (cut_name(name, LONGEST_NAME - len(os.fsencode(end))) + end)


def check_output_file(output: Path, source: Path, *, overwrite: bool, option: str = "-o") -> None:
    """Raise InputError unless the file `output` may be written: its folder takes files, and nothing gets lost."""
    check_name(output, option)
    if output.exists() and source.exists() and output.samefile(source):
        raise InputError(f"{output} is the input itself", f"choose another name with {option}")
    if output.is_dir():
        raise InputError(f"{output} is a folder", f"name a file with {option}")
    if output.exists() and not overwrite:
        raise InputError(f"{output} exists already", f"pass --overwrite to replace it, or another name with {option}")
    check_folder_writable(output.parent, option)


def check_output_folder(output: Path, source: Path, *, overwrite: bool) -> None:
    """Raise InputError unless pictures may be written into the folder `output`, which may be missing."""
    check_name(output, "-o")
    if output.is_dir():
        if output.samefile(source):
            raise InputError(f"{output} is the input folder itself", "choose another folder with -o")
        if not overwrite and any(output.iterdir()):
            raise InputError(f"{output} exists already and is not empty", "pass --overwrite, or another folder with -o")
        check_folder_writable(output, "-o")
    elif output.exists():
        raise InputError(f"{output} is a file, but the input is a folder", "name a folder with -o")
    else:
        check_folder_writable(output.parent, "-o")
