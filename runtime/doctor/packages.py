"""Checks of Python, of dsmap itself and of the packages that it requires."""

import importlib.metadata
import importlib.util
import platform
import re
import sys
from pathlib import Path

import dsmap
from dsmap.runtime.doctor import Finding, absent, failed, first_line, install, not_tried, ok, warning
from dsmap.runtime.system.subprocess_call import isolated

_NEEDED_BY_ALL = ("numpy", "pydantic")
_IMPORTER, _IMPORT_SECONDS = "dsmap.runtime.doctor.packages:import_them", 30.0
# What the video libraries' wheels need from the system, and a bare server lacks.
SYSTEM_LIBRARIES = re.compile(r"lib(GL|gthread|glib|xcb|X11|SM|ICE)")


def check_python() -> Finding:
    """Python's version, where dsmap is, and whether another dsmap is in the way."""
    try:
        wanted, _ = install.requirements()
    except (OSError, KeyError, ValueError, importlib.metadata.PackageNotFoundError):
        wanted = ""
    version = platform.python_version()
    source = install.find_source()
    own = Path(dsmap.__file__).resolve().parent
    how = "installed in place" if source.editable else "run in place" if source.folder == own.parent else "in"
    where = str(own.parent if how != "in" else own)
    fact = f"Python {version}, dsmap {dsmap.__version__} {how} {where}"
    details = {"python": sys.executable, "version": version, "dsmap": dsmap.__version__, "folder": str(own)}
    if wanted and install.satisfies(version, wanted) is False:
        return failed(f"Python {version}; dsmap needs {wanted}", "python3.12 -m venv NEW-FOLDER", **details)
    others = [str(copy) for copy in install.copies() if copy != own]
    if others:
        return warning(
            f"{fact}; another dsmap is in {', '.join(others)}", install.uninstall("dsmap"), others=others, **details
        )
    return ok(fact, **details)


def check_packages() -> Finding:
    """That the required packages are installed and whole, in versions that dsmap supports; numpy and pydantic load."""
    _, needed = install.requirements()
    missing, unfit, damaged, versions = [], [], [], {}
    for requirement in needed:
        match = re.match(r"[A-Za-z0-9._-]+", requirement)
        assert match, "metadata name a package"
        name, specifier = match[0], requirement[match.end() :].strip()
        found = install.installed(re.escape(name))
        if name == "opencv-python-headless":  # OpenCV's other wheels serve as well, see `check_opencv`
            found = found or install.owners(r"opencv(-.*)?", "cv2")
        if not found:
            missing.append(requirement)
            continue
        versions[name] = found[0].version
        if specifier and install.satisfies(found[0].version, specifier) is False:
            unfit.append((f"{name} {found[0].version}", requirement))
        elif not name.startswith("opencv-") and install.missing_files(found[0]):
            damaged.append(found[0])
    if missing:
        return failed(f"not installed: {', '.join(missing)}", install.install_packages(*missing), versions=versions)
    if unfit:
        told = ", ".join(f"{got} (dsmap needs {wanted})" for got, wanted in unfit)
        return failed(told, install.install_packages(*(wanted for _, wanted in unfit)), versions=versions)
    for name, ended in try_imports(*_NEEDED_BY_ALL, "typer").items():
        if ended:
            again = install.install_again(name, alone=name == "numpy")
            return failed(f"{name} cannot be imported: {ended}", again, versions=versions)
    if damaged:
        lost = len(install.missing_files(damaged[0]))
        return warning(
            f"{damaged[0].name} {damaged[0].version} lacks {lost} of its files",
            install.install_again(damaged[0].name),
            versions=versions,
        )
    return ok(", ".join(f"{name} {version}" for name, version in versions.items()), versions=versions)


def try_imports(*modules: str) -> dict[str, str]:
    """Why modules cannot be imported, empty where they can; a module that crashes is found by itself."""
    outcome = isolated(_IMPORTER, _IMPORT_SECONDS, nested=True, modules=modules)
    if isinstance(outcome.value, dict):
        return outcome.value
    if len(modules) == 1:
        return {modules[0]: outcome.ended}
    return {module: ended for name in modules for module, ended in try_imports(name).items()}


def import_them(modules: list[str]) -> dict[str, str]:
    """Imports modules in this process; `try_imports` calls it in another."""
    results = {}
    for module in modules:
        try:
            importlib.import_module(module)
            results[module] = ""
        except Exception as error:  # what a half-removed package raises is anybody's guess
            results[module] = first_line(error)
    return results


def numpy_first() -> Finding | None:
    """`skipped` where numpy or pydantic cannot be imported, which `check_packages` reports; else None.

    For after a failed import: it may have been because of them.
    """
    broken = next((name for name, ended in try_imports(*_NEEDED_BY_ALL).items() if ended), None)
    return None if broken is None else not_tried(f"{broken} cannot be imported, see packages")


def why_not(module: str, packages: list[install.Installed]) -> tuple[str, str] | None:
    """Why a module of these packages lacks something, and the command: two packages, lost files, another module.

    None where nothing of the kind is seen.
    """
    names = " and ".join(f"{package.name} {package.version}" for package in packages)
    if len(packages) > 1:
        return f"{names} are both installed, and own the same files", ""
    lost = install.missing_files(packages[0]) if packages else []
    if lost:
        return f"{names} lacks {len(lost)} of its files", install.install_again(packages[0].name)
    place = _place(module)
    if packages and packages[0].files and place is not None and not _within(place, packages[0].files):
        return f"Python finds another {module}, {place}, before that of {names}", f"mv {place} {place}.aside"
    return None


def _place(module: str) -> Path | None:
    """The folder or file that Python takes for a module."""
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # something in its place that is not a module
        return None
    places = [*(found.submodule_search_locations or []), found.origin] if found else []
    return next((Path(place) for place in places if place), None)


def _within(place: Path, files: tuple[Path, ...]) -> bool:
    folder = place if place.is_dir() else place.parent
    return folder.resolve() in {path.resolve() for path in {file.parent for file in files}}


def system_libraries() -> str:
    """The command that installs the system libraries that OpenCV's wheels need."""
    try:
        text = Path("/etc/os-release").read_text(encoding="utf-8")
    except OSError:
        text = ""
    like = " ".join(re.findall(r'^ID(?:_LIKE)?="?([^"\n]*)', text, re.MULTILINE)).split()
    if {"fedora", "rhel", "centos"} & set(like):
        return "dnf install mesa-libGL glib2"
    if "arch" in like:
        return "pacman -S libglvnd glib2"
    return "on Debian or Ubuntu: apt-get install libgl1 libglib2.0-0"


def check_training() -> Finding:
    """What training and export need too, read from the packages' files: importing torch takes seconds."""
    found = {name: install.installed(name) for name in ("torch", "onnx", "onnxscript", "safetensors")}
    if not found["torch"]:
        return absent("torch is not installed; training, exporting and most of dsmap-eval need it")
    torch = found["torch"][0]
    try:
        lines = torch.path("torch/version.py").read_text(encoding="utf-8").splitlines()
    except OSError:
        return warning(f"torch {torch.version} lacks some of its files", install.install_again("torch"))
    cuda = next((line.rpartition("=")[2].strip(" '\"") for line in lines if line.startswith("cuda")), "None")
    build = f"torch {torch.version.partition('+')[0]}, {'CPU build' if cuda == 'None' else f'CUDA {cuda}'}"
    if missing := [name for name, packages in found.items() if not packages]:
        return warning(f"{build}; not installed: {', '.join(missing)}", install.install("train,export"))
    return ok(f"{build}; onnx {found['onnx'][0].version}")


def check_elsewhere() -> Finding:
    """What brings in other machines (clusters, servers, the Hub) and tools (VapourSynth), from the packages' files."""
    extras: dict[str, tuple[str, ...]] = {
        "ray": ("ray", "fsspec", "pyarrow"),
        "triton": ("tritonclient", "grpcio"),
        "hub": ("huggingface.hub",),
        "vapoursynth": ("vapoursynth",),
    }
    found = {extra: [name for name in names if install.installed(name)] for extra, names in extras.items()}
    first = {extra: install.installed(names[0]) for extra, names in extras.items()}
    told = [f"{packages[0].name} {packages[0].version}" for packages in first.values() if packages]
    missing = [extra for extra, packages in first.items() if not packages]
    for extra, names in extras.items():
        lacks = [name for name in names if name not in found[extra]]
        if lacks and first[extra]:
            return warning(f"{', '.join(told)}; not installed: {', '.join(lacks)}", install.install(extra))
    if not told:
        return absent(
            "none of Ray, tritonclient, huggingface_hub and VapourSynth is installed; the first three are for --ray, "
            "--remote and hf:"
        )
    return ok(", ".join(told) + (f"; extras not installed: {', '.join(missing)}" if missing else ""))
