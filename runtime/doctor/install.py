"""Finds out how dsmap and its packages were installed, and gives the commands that change that."""

import functools
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import dsmap


class SourceFolder(NamedTuple):
    """Where dsmap's source is, if known."""

    folder: Path | None
    editable: bool
    """Installed in place: changes there take effect."""


def find_source() -> SourceFolder:
    """The source folder that this dsmap runs in or was installed from."""
    root = Path(dsmap.__file__).resolve().parent.parent
    origin = _origin()
    editable = bool(origin.get("dir_info", {}).get("editable"))
    if (root / "pyproject.toml").is_file() and (root / "runtime" / "translator.py").is_file():
        return SourceFolder(root, editable)
    from urllib.parse import urlparse  # slow to import, and seldom needed
    from urllib.request import url2pathname

    url = urlparse(str(origin.get("url", "")))
    folder = Path(url2pathname(url.path)) if url.scheme == "file" else None
    return SourceFolder(folder if folder is not None and (folder / "pyproject.toml").is_file() else None, editable)


def _origin() -> dict[str, Any]:
    """pip's record of where dsmap came from. A build may have left metadata without it in the source folder."""
    for distribution in importlib.metadata.distributions(name="dsmap"):
        try:
            origin = json.loads(distribution.read_text("direct_url.json") or "null")
        except (OSError, ValueError):
            continue
        if isinstance(origin, dict):
            return origin
    return {}


def install(extra: str, *, without: tuple[str, ...] = ()) -> str:
    """The command that installs an extra (cpu, gpu, openvino ...); `without`: packages to remove first.

    pip keeps the dsmap that is installed, a checkout installed in place too, and adds what the extra needs.
    """
    removal = f"{uninstall(*without)} && " if without else ""
    return f"{removal}{_pip('install')} 'dsmap[{extra}]'"


def install_packages(*requirements: str) -> str:
    """The command that installs packages by requirement, such as av>=18,<19."""
    return f"{_pip('install')} {' '.join(shlex.quote(text) for text in requirements)}"


def install_again(distribution: str, *, alone: bool = True) -> str:
    """The command that reinstalls a package; not `alone`: with its dependencies."""
    versions = [found.version for found in installed(re.escape(distribution))]
    pinned = f"{distribution}=={versions[0]}" if versions else distribution
    # Without its list of files pip cannot remove what is there, and stops.
    listed = all(found.files is not None for found in installed(re.escape(distribution)))
    how = "--force-reinstall" if listed else "--ignore-installed"
    return " ".join([_pip("install"), how, *(["--no-deps"] if alone else []), pinned])


def install_windows() -> str:
    """The command that installs an OpenCV with windows, or reinstalls it over the headless one."""
    return install_again("opencv-python") if installed("opencv-python") else install("window")


def install_dsmap_again() -> str:
    """The command that reinstalls dsmap: from its checkout where that is known."""
    source = find_source()
    project = "dsmap" if source.folder is None else shlex.quote(str(source.folder))
    return f"{_pip('install')} --force-reinstall --no-deps {'-e ' if source.editable else ''}{project}"


def uninstall(*distributions: str) -> str:
    """The command that removes packages."""
    return f"{_pip('uninstall', '-y')} {' '.join(distributions)}"


def _pip(verb: str, *flags: str) -> str:
    """pip of this environment; by its short name only where a shell would find this one."""
    # Not by find_spec: setuptools takes that for pip at work, and then gives torch.compile the wrong distutils.
    if not list(importlib.metadata.distributions(name="pip")):  # environments of uv have none
        return f"uv pip {verb} --python {shlex.quote(sys.executable)}"
    found = shutil.which("pip")
    own = found is not None and Path(found).parent == Path(sys.executable).parent
    return " ".join([*(["pip"] if own else [shlex.quote(sys.executable), "-m", "pip"]), verb, *flags])


class Installed:
    """An installed package, by its metadata."""

    def __init__(self, name: str, distribution: importlib.metadata.Distribution) -> None:
        self.name, self.version = name, distribution.version
        self._distribution = distribution

    def path(self, file: str) -> Path:
        """Where a file is, of which the package's own name is known ("torch/version.py")."""
        return Path(str(self._distribution.locate_file(file)))

    @functools.cached_property
    def _listed(self) -> list[importlib.metadata.PackagePath] | None:
        return self._distribution.files  # slow for packages of many thousand files

    @functools.cached_property
    def files(self) -> tuple[Path, ...] | None:
        """Where its files should be, without compiled Python; None where it does not say."""
        if self._listed is None:
            return None
        return tuple(Path(str(file.locate())) for file in self._listed if file.suffix != ".pyc")

    def has_module(self, module: str) -> bool:
        """Whether it has files in `module`, or does not say where its files are."""
        return self._listed is None or any(file.parts[:1] == (module,) for file in self._listed)


def installed(pattern: str) -> list[Installed]:
    """Packages whose name (in small letters, with dashes) matches. Damaged metadata is ignored."""
    found: dict[str, Installed] = {}
    for distribution in importlib.metadata.distributions():
        try:
            raw = distribution.metadata["Name"]
            name = re.sub(r"[-_.]+", "-", str(raw)).lower()
            if raw is not None and re.fullmatch(pattern, name) and name not in found:
                found[name] = Installed(name, distribution)
        except Exception:  # half-written metadata raise whatever they like
            continue
    return [found[name] for name in sorted(found)]


def owners(pattern: str, module: str) -> list[Installed]:
    """Installed packages of that name with files in `module`, or that do not say where theirs are."""
    return [one for one in installed(pattern) if one.has_module(module)]


def missing_files(package: Installed) -> list[Path]:
    """Files that a package should have and lacks."""
    return [path for path in package.files or () if not path.exists()]


def requirements() -> tuple[str, list[str]]:
    """The Python that dsmap needs (">=3.11") and the packages ("av>=18,<19"), without those of its extras."""
    source = find_source()
    own = Path(dsmap.__file__).resolve().parent.parent
    if source.folder == own:  # run in place: metadata may be of an earlier time
        project = tomllib.loads((own / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return project["requires-python"], list(project["dependencies"])
    metadata = importlib.metadata.distribution("dsmap")
    needed = [text for text in metadata.requires or [] if "extra ==" not in text]
    return str(metadata.metadata["Requires-Python"] or ""), [text.partition(";")[0].strip() for text in needed]


def satisfies(version: str, specifier: str) -> bool | None:
    """Whether a version is in a range (">=18,<19"); None without packaging or pip."""
    for module in ("packaging.specifiers", "pip._vendor.packaging.specifiers"):
        try:
            specifiers = importlib.import_module(module)
            return bool(specifiers.SpecifierSet(specifier).contains(version, prereleases=True))
        except ImportError:
            continue
        except Exception:  # not a valid version
            return None
    return None


def copies() -> list[Path]:
    """Every dsmap that Python could import, the one it does import first."""
    own = Path(dsmap.__file__).resolve().parent
    places = [Path(entry or os.curdir) / "dsmap" for entry in sys.path]
    found = [place.resolve() for place in places if (place / "__init__.py").is_file()]
    return list(dict.fromkeys([own, *found]))
