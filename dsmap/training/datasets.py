"""Training images on disk: two domains, each a folder of images. Imports no torch, so that commands fail early."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from dsmap.common.images import left_out_line, list_images, list_stills, size_fault
from dsmap.config.base import check_given_domains
from dsmap.errors import InputError

_TWO_FOLDERS = "--domain summer=PATH --domain winter=PATH"


@dataclass(frozen=True, kw_only=True)
class Domain:
    """The images of one domain. `train` is never empty, `test` may be."""

    name: str
    train: tuple[Path, ...]
    test: tuple[Path, ...] = ()
    left_out: tuple[str, ...] = ()
    """A line for each of its folders that holds other files: "2 files left out of FOLDER: 2 .txt"."""


class Domains(NamedTuple):
    a: Domain
    b: Domain


class Fingerprint(NamedTuple):
    """Identifies a set of training images, independently of the folder's location."""

    pictures: int
    sha256: str
    """SHA-256 of every file's name and size in bytes."""


def fingerprint(domain: Domain) -> Fingerprint:
    """The fingerprint of a domain's training images."""
    digest = hashlib.sha256()
    for path in domain.train:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode("utf-8", "surrogateescape"))
    return Fingerprint(len(domain.train), digest.hexdigest())


def find_domains(
    data: Path | None, named: Sequence[tuple[str, Path]] = (), *, names: tuple[str, str] = ("a", "b")
) -> Domains:
    """The two domains' images, from one folder or from two; images are searched directly in a folder.

    `data` holds trainA and trainB, optionally testA and testB, for domains called `names`. `named` holds two (name,
    folder) pairs; a folder holds train/ and optionally test/, or else the training images themselves.
    Raises InputError when both or neither are given, a folder is missing or empty, or the two domains are the same.
    """
    if data is not None and named:
        raise InputError("Both --data and --domain were given.", f"Pass --data FOLDER, or {_TWO_FOLDERS}.")
    if data is None and len(named) != 2:
        raise InputError(
            f"Two domains are needed, got {len(named)}.",
            f"Pass --data FOLDER (with trainA, trainB), or {_TWO_FOLDERS}.",
        )
    if data is None:
        names = (named[0][0], named[1][0])
    check_given_domains(names)
    if data is not None:
        _require_folder(data)
        sides = zip(names, "AB", strict=True)
        return Domains(*(_domain(name, data / f"train{side}", data / f"test{side}") for name, side in sides))
    if named[0][1].resolve() == named[1][1].resolve():
        raise InputError(f"Both domains are the folder {named[0][1]}.", "Give each domain a folder of its own.")
    return Domains(*(_named_domain(name, folder) for name, folder in named))


def find_domain(name: str, folder: Path) -> Domain:
    """The images of one domain in a folder, as one of the `named` of `find_domains`. Raises InputError as that."""
    return _named_domain(name, folder)


def check_same_domains(domains: Domains, names: Sequence[str]) -> None:
    """Raises InputError unless `domains` are those of a checkpoint, in any order."""
    if {domain.name for domain in domains} != set(names):
        got, expected = ", ".join(domain.name for domain in domains), ", ".join(names)
        raise InputError(f"the images are of {got}, the checkpoint of {expected}", "Use the checkpoint's names.")


def training_folders(domains: Domains) -> dict[str, list[str]]:
    """The folders of each domain's training images, as absolute paths."""
    return {domain.name: sorted({str(path.parent.resolve()) for path in domain.train}) for domain in domains}


def _named_domain(name: str, folder: Path) -> Domain:
    _require_folder(folder)
    return _domain(name, folder / "train" if (folder / "train").is_dir() else folder, folder / "test")


def _domain(name: str, train: Path, test: Path) -> Domain:
    _require_folder(train)
    found = [list_stills(folder) for folder in (train, test) if folder is train or folder.is_dir()]
    left_out = tuple(left_out_line(one.left_out, one.folder) for one in found if one.left_out)
    if not found[0].images:
        left_out_note = f" ({left_out_line(found[0].left_out)})" if found[0].left_out else ""
        raise InputError(
            f"No images in {train}{left_out_note}.",
            "Put JPEG, PNG, WebP, AVIF, HEIC, GIF, BMP or TIFF files directly into it (subfolders are not searched).",
        )
    test_images = found[1].images if len(found) > 1 else ()
    return Domain(name=name, train=found[0].images, test=test_images, left_out=left_out)


def without_too_large(domains: Domains) -> Domains:
    """`domains` without images whose headers say that they do not fit into memory; `left_out` names each."""
    kept = []
    for domain in domains:
        faults = {path: why for path in (*domain.train, *domain.test) if (why := size_fault(path)) is not None}
        notes = tuple(f"{path} is left out: {why}" for path, why in faults.items())
        train, test = (tuple(p for p in paths if p not in faults) for paths in (domain.train, domain.test))
        kept.append(replace(domain, train=train, test=test, left_out=(*domain.left_out, *notes)))
    return Domains(*kept)


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise InputError(
            f"The folder {folder} {what}.",
            f"Pass --data FOLDER with trainA and trainB (and testA, testB) in it, or {_TWO_FOLDERS}.",
        )


def check_named_domains(option: str, names: Iterable[str], domains: tuple[str, str]) -> None:
    """Raises InputError if an option names a domain that the network does not have."""
    for name in names:
        if name not in domains:
            raise InputError(f"{option} names a domain {name!r}", f"This model knows {' and '.join(domains)}.")


def default_style_images(folders: Mapping[str, Path], domains: tuple[str, str]) -> dict[str, Sequence[Path]]:
    """The images in the folders of `--default-style`, by domain.

    Raises InputError for an unknown domain, and for a folder without images.
    """
    check_named_domains("--default-style", folders, domains)
    return {domain: list_images(folder) for domain, folder in folders.items()}
