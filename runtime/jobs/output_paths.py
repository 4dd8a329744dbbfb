"""Names of results, and checks before any work so that nothing is overwritten or lost."""

import itertools
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from dsmap.common.files import cut_name, is_regular
from dsmap.common.images import WRITTEN_SUFFIXES
from dsmap.common.output_files import MAX_NAME_BYTES, Identity, check_folder_writable, check_name, identity, is_inside
from dsmap.errors import InputError


def check_kept_apart(
    output: Path, inputs: Mapping[Identity, str], closed: Iterable[tuple[Path, str]], *, option: str
) -> None:
    """Raise InputError when `output` is one of `inputs`, or lies in a folder of `closed`; each has what to call it."""
    if name := inputs.get(identity(output)):
        raise InputError(f"{output} is {name}", f"choose another name with {option}")
    for folder, name in closed:
        if is_inside(output, folder):
            raise InputError(f"{output} lies in {name} {folder}", f"choose another place with {option}")


def default_output(source: Path, domain: str, suffix: str) -> Path:
    """NAME-DOMAIN beside the input. `suffix` has its dot, and is "" for a folder."""
    source = source.absolute()
    name = source.name if source.is_dir() else source.stem
    end = "-" + re.sub(r"[^\w.-]+", "-", domain) + suffix
    return source.parent / (cut_name(name, MAX_NAME_BYTES - len(os.fsencode(end))) + end)


def image_suffix(image: Path) -> str:
    """The suffix of an image's result: its own where such files are written, else .png."""
    return image.suffix if image.suffix.lower() in WRITTEN_SUFFIXES else ".png"


def result_names(images: Sequence[Path]) -> dict[Path, str]:
    """What the result of each image is called in a folder job: no two alike, in the order of `images`.

    Those that keep their names have the first choice; of the others one whose name is taken gets a number
    (a.bmp beside a.bmp.png becomes a.bmp-2.png). Names count as alike where a file system could take them for one:
    A.png and a.png.
    """
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in sorted(images, key=lambda path: plain_name(path) != path.name):  # stable
        name = next(name for name in _numbered_names(path) if _alike(name) not in taken)
        taken.add(_alike(name))
        names[path] = name
    return {path: names[path] for path in images}


def plain_name(path: Path) -> str:
    """The name of an image's result where no other result has it."""
    return path.name if path.suffix.lower() in WRITTEN_SUFFIXES else _with_end(path.name, ".png")


def _numbered_names(path: Path) -> Iterator[str]:
    yield plain_name(path)
    kept = path.suffix.lower() in WRITTEN_SUFFIXES
    for number in itertools.count(2):
        end = f"-{number}{image_suffix(path)}"
        yield _with_end(path.stem if kept else path.name, end)


def _with_end(name: str, end: str) -> str:
    return cut_name(name, MAX_NAME_BYTES - len(os.fsencode(end))) + end


def _alike(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def check_output_file(output: Path, source: Path, *, overwrite: bool, option: str = "-o") -> None:
    """Raise InputError unless the file `output` may be written: its folder takes files, and nothing gets lost."""
    check_name(output, option)
    if output.exists() and source.exists() and output.samefile(source):
        raise InputError(f"{output} is the input itself", f"choose another name with {option}")
    if output.is_dir():
        raise InputError(f"{output} is a folder", f"name a file with {option}")
    if output.exists() and not output.is_file():
        raise InputError(f"{output} is a pipe or a device", f"name a file with {option}")
    if os.path.lexists(output) and not overwrite:  # a link that leads nowhere, too
        raise InputError(f"{output} exists already", f"pass --overwrite to replace it, or another name with {option}")
    check_folder_writable(output.parent, option)


def check_replaceable(results: Iterable[Path]) -> None:
    """Raise InputError unless each of `results`, all in a folder of results, is a regular file or missing.

    Through a link another file would be written, and a pipe without a reader is waited for without end.
    """
    for path in results:
        if os.path.lexists(path) and not is_regular(path):
            kind = "a link" if path.is_symlink() else "not a regular file"
            raise InputError(f"{path} is {kind}, and nothing is written through it", "remove it, or choose another -o")


def check_output_folder(output: Path, source: Path, *, overwrite: bool) -> None:
    """Raise InputError unless images may be written into the folder `output`, which may be missing."""
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
