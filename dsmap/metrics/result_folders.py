"""Folders of results from any system: which image belongs to which content, and what can be compared."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple, TypeVar

from dsmap.common.images import left_out_line, size_fault
from dsmap.common.images.folder_listing import role_of
from dsmap.common.sampling import pick_evenly
from dsmap.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ResultImage:
    """One translated image."""

    path: Path
    content: int | None = None
    """Index of its content; None if its name does not say."""
    style: str = ""
    """The rest of its name, beside the content's."""


@dataclass(frozen=True, kw_only=True)
class ResultFolder:
    """The results of one system."""

    name: str
    results: tuple[ResultImage, ...]
    contradictory: int = 0
    """Number of results whose file names one content and whose folder another."""
    doubtful: int = 0
    """Number of results whose name begins with one content's and contains another's after it."""
    left_out: tuple[str, ...] = ()
    """A line about everything that is not a still image, and one for each image that is too large."""

    def of_content(self) -> dict[int, list[ResultImage]]:
        """The results of each content, in order of their names."""
        found: dict[int, list[ResultImage]] = {}
        for result in self.results:
            if result.content is not None:
                found.setdefault(result.content, []).append(result)
        return found


def find_images(folder: Path, what: str, pattern: str | None = None) -> list[Path]:
    """The images in `folder` and its subfolders, sorted, without hidden files. Raises InputError if there are none.

    `what` names the folder in errors. `pattern`: only files whose names match it, such as *_fake_B.png.
    """
    return scan_images(folder, what, [], pattern)


def scan_images(folder: Path, what: str, left_out: list[str], pattern: str | None = None) -> list[Path]:
    """`find_images`, adding lines to `left_out` about files that are not still images or do not fit into memory."""
    if not folder.is_dir():
        fault = "is a file, not a folder" if folder.exists() else "does not exist"
        raise InputError(f"{what} {folder} {fault}", "Pass a folder of images.")
    found, counts = [], Counter[str]()
    for path in _files_under(folder, pattern):
        role, why = role_of(path)
        if why or role != "image":
            counts[why or f"{'animated ' * (role == 'animation')}{path.suffix.lower()}"] += 1
        elif (too_large := size_fault(path)) is not None:
            left_out.append(f"{path} is left out: {too_large}")
        else:
            found.append(path)
    if counts:
        left_out.append(left_out_line(counts.most_common(), folder))
    if not found and pattern is not None:
        raise InputError(f"no images in {what} {folder} match {pattern}", "Check the pattern: * stands for any text.")
    if not found:
        reason = f" ({left_out_line(counts.most_common())})" if counts else ""
        raise InputError(
            f"no images in {what} {folder}{reason}", "Put JPEG, PNG, WebP, AVIF, HEIC, GIF, BMP or TIFF files into it."
        )
    return sorted(found)


def _files_under(folder: Path, pattern: str | None) -> Iterator[Path]:
    """Yields all files; hidden folders are not entered, and none is entered twice."""
    entered = {folder.resolve()}
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in sorted(folders) if not name.startswith(".") and _enter(entered, parent, name)]
        yield from (Path(parent, name) for name in files if pattern is None or fnmatchcase(name, pattern))


def read_results(name: str, folder: Path, contents: Sequence[Path], pattern: str | None = None) -> ResultFolder:
    """The results in `folder`, each with its content among `contents` if its name says.

    A result's name begins with its content's (any suffix), alone or followed by a character that is neither letter nor
    digit (`lake.png`, `lake_snow.png`, `lake-3.jpg`); else it lies in a folder of the content's name (`lake/0.png`);
    else its name contains the content's as whole words (`fake_lake.png`) and that of no other content. The longest
    matching name counts. `pattern` as in `find_images`. Raises InputError if there are no images, and for two contents
    of one name.
    """
    numbers: dict[str, int] = {}
    for number, path in enumerate(contents):
        stem = _composed(path.stem)
        if stem in numbers:
            raise InputError(
                f"two contents are called {stem}: {contents[numbers[stem]]} and {path}",
                "Give them different names: results are matched by them.",
            )
        numbers[stem] = number
    left_out: list[str] = []
    named = [
        (path, _content_of(path.relative_to(folder), numbers))
        for path in scan_images(folder, "the folder of results", left_out, pattern)
    ]
    return ResultFolder(
        name=name,
        results=tuple(ResultImage(path=path, content=found.content, style=found.style) for path, found in named),
        contradictory=sum(found.contradictory for _, found in named),
        doubtful=sum(found.doubtful for _, found in named),
        left_out=tuple(left_out),
    )


def comparable(folders: Sequence[ResultFolder], contents: int) -> tuple[list[ResultFolder], list[str]]:
    """The results of every system that are compared, and a sentence about everything that was left out.

    With `contents` (their number) these are the contents that every system has results of, and equally many results of
    each; without (0), equally many results of every system, since distances between sets depend on their size. A system
    none of whose results names a content takes part with as many results as the others. Raises InputError if nothing is
    left.
    """
    known = [folder for folder in folders if folder.of_content()] if contents else []
    if contents and not known:
        raise InputError(
            f"no result has the name of a content; the first result is {folders[0].results[0].path.name}",
            "Name results after their contents (lake.png, lake_1.png), or leave out --content.",
        )
    if not known:
        return _same_number(folders, min(len(folder.results) for folder in folders))
    rest = [folder for folder in folders if folder not in known]
    kept, notes = _same_contents(known, contents, min((len(folder.results) for folder in rest), default=None))
    notes += [
        f"{folder.name}: no result has the name of a content (the first is {folder.results[0].path.name}), so content"
        " preservation is not measured."
        for folder in rest
    ]
    others, left_out = _same_number(rest, len(kept[0].results))
    by_name = {folder.name: folder for folder in [*kept, *others]}
    return [by_name[folder.name] for folder in folders], notes + left_out


def _same_number(folders: Sequence[ResultFolder], count: int) -> tuple[list[ResultFolder], list[str]]:
    kept = [replace(folder, results=tuple(pick_evenly(folder.results, count))) for folder in folders]
    return kept, [
        f"{folder.name}: {count} of {len(folder.results)} results are compared, as many as of the other systems."
        for folder in folders
        if len(folder.results) > count
    ]


def _same_contents(
    folders: Sequence[ResultFolder], contents: int, most: int | None
) -> tuple[list[ResultFolder], list[str]]:
    """`most`: the number of results of a system without contents; None without such a system."""
    by_content = [folder.of_content() for folder in folders]
    notes = []
    for folder in folders:
        lost = sum(result.content is None for result in folder.results)
        if lost:
            notes.append(f"{folder.name}: {lost} of {len(folder.results)} results belong to no content: left out.")
        if folder.contradictory:
            notes.append(
                f"{folder.name}: {folder.contradictory} of {len(folder.results)} results name one content by their file"
                " and another one by their folder: the file counts."
            )
        if folder.doubtful:
            notes.append(
                f"{folder.name}: {folder.doubtful} of {len(folder.results)} results begin with the name of one content"
                " and contain that of another: the first was taken, as in CONTENT_STYLE."
            )
    shared = sorted(set.intersection(*map(set, by_content)))
    if not shared:
        raise InputError("the systems have no content in common", "Translate the same images with all of them.")
    counts = {content: min(len(found[content]) for found in by_content) for content in shared}
    total = sum(counts.values())
    if len(shared) < contents:
        notes.append(f"{len(shared)} of {contents} contents are compared: those that every system has results for.")
    if most is not None and most < total:
        shared = pick_evenly(shared, max(1, len(shared) * most // total))
        notes.append(f"{len(shared)} of these contents are compared: a system has only {most} results.")
    kept = []
    for folder, found in zip(folders, by_content, strict=True):
        results = [result for content in shared for result in pick_evenly(found[content], counts[content])]
        if len(results) < sum(len(found[content]) for content in shared):
            notes.append(f"{folder.name}: {len(results)} results are compared, as many of each content as of all.")
        kept.append(replace(folder, results=tuple(results)))
    return kept, notes


def _enter(entered: set[Path], parent: str, name: str) -> bool:
    """Whether a folder was not entered before, through another link."""
    real = Path(parent, name).resolve()
    new = real not in entered
    entered.add(real)
    return new


class _Named(NamedTuple):
    """The content and style that a result's path names."""

    content: int | None
    style: str
    contradictory: bool = False
    doubtful: bool = False


def _content_of(path: Path, numbers: dict[str, int]) -> _Named:
    """The content and style named by a result's path, relative to its folder."""
    stem, folders = _composed(path.stem), [_composed(folder) for folder in path.parts[:-1]]
    of_folders = next((numbers[folder] for folder in reversed(folders) if folder in numbers), None)
    at_start = [end for start, end in _names_in(stem, numbers) if start == 0]
    if at_start:
        content, end = numbers[stem[: at_start[0]]], at_start[0]
        rest = stem[end:].lstrip("_-. ")
        style = "/".join([*folders, rest]).strip("/")
        doubtful = any(numbers[rest[start:stop]] != content for start, stop in _names_in(rest, numbers))
        return _Named(content, style, of_folders not in (None, content), doubtful)
    if of_folders is not None:
        return _Named(of_folders, stem)
    within = _names_in(stem, numbers)
    # Parts of the longest name do not count: "lake" in "snowy lake".
    apart = [(start, end) for start, end in within[1:] if start < within[0][0] or end > within[0][1]]
    if within and not apart:
        start, end = within[0]
        return _Named(numbers[stem[start:end]], f"{stem[:start]} {stem[end:]}".strip("_-. "))
    return _Named(None, stem)


def _composed(name: str) -> str:
    """One spelling of accented letters: archives from a Mac split them into two characters."""
    return unicodedata.normalize("NFC", name)


def _in_word(char: str) -> bool:
    return char.isalnum() or unicodedata.category(char).startswith("M")  # a mark belongs to the letter before it


def _names_in(stem: str, numbers: dict[str, int]) -> list[tuple[int, int]]:
    """(start, end) of the contents' names in `stem`, as whole words, longest first."""
    starts = [i for i in range(len(stem)) if i == 0 or not _in_word(stem[i - 1])]
    ends = [i for i in range(1, len(stem) + 1) if i == len(stem) or not _in_word(stem[i])]
    found = [(start, end) for start in starts for end in ends if start < end and stem[start:end] in numbers]
    return sorted(found, key=lambda place: place[0] - place[1])
