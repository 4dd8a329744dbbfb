"""Folders of results from anywhere: which picture is a translation of which content, and what can be compared."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dsmap.errors import InputError
from dsmap.images import PICTURE_SUFFIXES


@dataclass(frozen=True, kw_only=True)
class Result:
    """One translated picture."""

    path: Path
    content: int | None = None
    """Which of the contents it came from; None where no name tells."""
    style: str = ""
    """What its name says beside the content's name."""


@dataclass(frozen=True, kw_only=True)
class ResultFolder:
    """The results of one system."""

    name: str
    results: tuple[Result, ...]

    def of_content(self) -> dict[int, list[Result]]:
        """The results of each content, in the order of their names."""
        found: dict[int, list[Result]] = {}
        for result in self.results:
            if result.content is not None:
                found.setdefault(result.content, []).append(result)
        return found


def find_pictures(folder: Path, what: str) -> list[Path]:
    """The pictures in `folder` and its subfolders, sorted; hidden files are left out. InputError when there are none.

    `what` names the folder in errors.
    """
    if not folder.is_dir():
        raise InputError(f"{what} {folder} is no folder", "Pass a folder of pictures.")
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(parent, name)
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in PICTURE_SUFFIXES
        ]
    if not found:
        raise InputError(f"no pictures in {what} {folder}", "Put JPEG, PNG, WebP, BMP or TIFF files into it.")
    return sorted(found)


def read_results(name: str, folder: Path, contents: Sequence[Path]) -> ResultFolder:
    """The results in `folder`, each with its content among `contents` where its name tells.

    A result's name is its content's (any suffix), alone or with more behind it after a character that is no letter and
    no digit (`lake.png`, `lake_snow.png`, `lake-3.jpg`); or it lies in a folder of the content's name (`lake/0.png`).
    The longest name that fits is taken.
    """
    numbers: dict[str, int] = {}
    for number, path in enumerate(contents):
        if path.stem in numbers:
            raise InputError(
                f"two contents are called {path.stem}: {contents[numbers[path.stem]]} and {path}",
                "Give them different names: results are told apart by them.",
            )
        numbers[path.stem] = number
    found = []
    for path in find_pictures(folder, "the folder of results"):
        content, style = _content_of(path.relative_to(folder), numbers)
        found.append(Result(path=path, content=content, style=style))
    return ResultFolder(name=name, results=tuple(found))


def comparable(folders: Sequence[ResultFolder], contents: int) -> tuple[list[ResultFolder], list[str]]:
    """What of every system is compared, and a sentence for each thing that was left out.

    With contents (their number; 0: none are given) those that every system has results of, and of each content the same
    number of results; without, the same number of results of every system: distances between sets depend on their size.
    Raises InputError when nothing is left.
    """
    if contents:
        return _same_contents(folders, contents)
    count = min(len(folder.results) for folder in folders)
    kept = [replace(folder, results=tuple(_evenly(folder.results, count))) for folder in folders]
    return kept, [
        f"{folder.name}: {count} of {len(folder.results)} results are compared, as many as of every system."
        for folder in folders
        if len(folder.results) > count
    ]


def _same_contents(folders: Sequence[ResultFolder], contents: int) -> tuple[list[ResultFolder], list[str]]:
    by_content = [folder.of_content() for folder in folders]
    notes = []
    for folder, found in zip(folders, by_content, strict=True):
        if not found:
            name = folder.results[0].path.name
            raise InputError(
                f"no result of {folder.name} has the name of a content; the first is {name}",
                "Name results after their contents (lake.png, lake_1.png), or leave out --content.",
            )
        lost = sum(result.content is None for result in folder.results)
        if lost:
            notes.append(f"{folder.name}: {lost} of {len(folder.results)} results belong to no content: left out.")
    shared = sorted(set.intersection(*map(set, by_content)))
    if not shared:
        raise InputError("the systems have no content in common", "Translate the same pictures with all of them.")
    if len(shared) < contents:
        notes.append(f"{len(shared)} of {contents} contents are compared: those that every system has results of.")
    counts = {content: min(len(found[content]) for found in by_content) for content in shared}
    kept = []
    for folder, found in zip(folders, by_content, strict=True):
        results = [result for content in shared for result in _evenly(found[content], counts[content])]
        if len(results) < sum(len(found[content]) for content in shared):
            notes.append(f"{folder.name}: {len(results)} results are compared, as many of each content as of all.")
        kept.append(replace(folder, results=tuple(results)))
    return kept, notes


def _evenly(items: Sequence[Result], count: int) -> list[Result]:
    return [items[i * len(items) // count] for i in range(count)]


def _content_of(path: Path, numbers: dict[str, int]) -> tuple[int | None, str]:
    """The content that a result's path, relative to its folder, names; and what else it says."""
    for end in range(len(path.stem), 0, -1):
        rest = path.stem[end:]
        if path.stem[:end] in numbers and not rest[:1].isalnum():
            return numbers[path.stem[:end]], "/".join([*path.parts[:-1], rest.lstrip("_-. ")]).strip("/")
    for folder in reversed(path.parts[:-1]):
        if folder in numbers:
            return numbers[folder], path.stem
    return None, path.stem
