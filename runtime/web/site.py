"""Writes a site: the page, the model, what runs it, and the licences, in one folder of static files.

    index.html app.css service-worker.js site-version.js
    app/ lib/          the page and the module that it is built on
    runtime/           ONNX Runtime Web, Mediabunny, client-zip
    model/             site.json, graphs, references
    licences/

All addresses are relative, so the folder may lie anywhere. Domains have numbers in file names: their own names may hold
anything.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsmap import __version__
from dsmap.common.atomic import rename_no_replace, replace_folder, sync_folder, sync_tree
from dsmap.common.output_files import check_folder_writable, check_name, is_inside, naming_error
from dsmap.common.part_files import part_folder
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.bundle.bundle import TRANSLATING, Bundle, GraphData
from dsmap.runtime.web.reference import LEAST_PSNR_DB, make_reference
from dsmap.runtime.web.site_writer import SiteWriter
from dsmap.runtime.web.vendor import PAGE_FILES, VENDOR_FILES, VendorFile, find_vendor_files, vendor_bytes

SITE_FORMAT = 1
SITE_FILE = "model/site.json"
PRECISIONS = ("fp32", "fp16")
"""What browsers run, of those that a bundle may have: in int8 they differ too much from the CPU."""
_PAGE = Path(__file__).parent / "page"
_LICENCES = Path(__file__).parent / "licences"
_WORKER = "service-worker.js"
_SERVER_WORKER = "service-worker-server.js"
_VERSION_FILE = "site-version.js"
_NOT_SERVED = {
    *("package.json", "package-lock.json", "tsconfig.json", "eslint.config.js", "node_modules", "README.md"),
    _SERVER_WORKER,
}
"""What of the page's folder is for developers, or has another name in a site."""


@dataclass(frozen=True, kw_only=True)
class SiteRequest:
    """What `build_site` makes a site of."""

    bundle: Bundle
    out: Path
    targets: tuple[str, ...] = ()
    """The domains to translate to; all of them if empty."""
    overwrite: bool = False
    """Replace a site that is there already."""
    runtime: Path | None = None
    """Where the npm packages are unpacked, if they are to be taken from there."""
    server: dict[str, Any] | None = None
    """What the page needs to know of the server behind it, which translates: the site then has no graphs and nothing
    that runs them. None for a static site."""


@dataclass(frozen=True)
class WrittenSite:
    """What was written."""

    folder: Path
    version: str
    """Changes with any file of the site; 16 hex digits."""
    bytes: int
    new_bytes: int
    """How many of these were written: the others were there from an earlier site."""
    first_visit: int
    """How many bytes a browser loads to translate in one direction, the runtime apart, in the smallest precision."""


def build_site(request: SiteRequest, notify: Callable[[str], None] = lambda _line: None) -> WrittenSite:
    """Writes the site `request.out`, whole or not at all.

    Raises InputError for a folder that holds anything but a site, for a domain that the model does not have, and where
    the files of other projects cannot be had; DsmapError where the model does not run or the disk is full.
    """
    out = Path(os.path.abspath(request.out))
    targets = request.targets or request.bundle.manifest.targets
    for target in targets:
        request.bundle.source_of(target)
    check_site_folder(out, request.bundle, overwrite=request.overwrite)
    vendor = _vendor_files(request, notify)
    request.bundle.check()
    part: Path | None = None
    try:
        final = Path(os.path.realpath(out))
        part = part_folder(final)
        files = SiteWriter(part, final if final.is_dir() else None)
        _copy_page(files, server=request.server is not None)
        for file, path in vendor.items():
            folder = "licences" if file.path.startswith("LICENSE") else "runtime"
            files.write(f"{folder}/{file.name}", vendor_bytes(file, path))
        site = _write_model(request, tuple(dict.fromkeys(targets)), files)
        version = write_version(files)
        size = sum(path.stat().st_size for path in part.rglob("*") if path.is_file())
        sync_tree(part)
        _publish(part, out, request)
    except OSError as error:
        raise DsmapError(f"cannot write the site {out}: {error}", "Free disk space or choose another -o.") from error
    finally:
        request.bundle.release()  # a server goes on
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
    return WrittenSite(out, version, size, files.new_bytes, _first_visit(site))


def check_site_folder(out: Path, bundle: Bundle, *, overwrite: bool) -> None:
    """Raises InputError unless a site may be written to `out`: it is new, empty, or with `overwrite` a site."""
    check_name(out, "-o")
    if is_inside(bundle.folder, out) or is_inside(out, bundle.folder):
        raise InputError(f"-o {out} and the bundle {bundle.folder} are in one another", "Choose another folder.")
    if not os.path.lexists(out):
        check_folder_writable(out.parent, "-o")
        return
    if not out.is_dir():
        raise InputError(f"-o {out} is a file", "Pass the name of a folder.")
    if any(out.iterdir()):
        if not (out / SITE_FILE).is_file():
            raise InputError(f"-o {out} holds other files than a site", "Choose a new folder.")
        if stranger := _stranger(out):
            raise InputError(
                f"-o {out} holds {stranger}, which is no part of the site", "Move it away, or choose a new folder."
            )
        if not overwrite:
            raise InputError(f"-o {out} exists already", "Pass --overwrite to replace it, or another name with -o.")
    check_folder_writable(Path(os.path.realpath(out)).parent, "-o")


def _stranger(site: Path) -> str | None:
    """The first file in `site` that the site did not bring, such as a user's own; None if there is none."""
    try:
        text = (site / _VERSION_FILE).read_text(encoding="utf-8")
        own = set(json.loads(text.partition("=")[2].strip().rstrip(";"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        own = set()  # nothing says what belongs to it
    own |= {_VERSION_FILE, _WORKER}
    for path in sorted(site.rglob("*")):
        name = path.relative_to(site).as_posix()
        if name not in own and (path.is_symlink() or not path.is_dir()):
            return name
    return None


def _vendor_files(request: SiteRequest, notify: Callable[[str], None]) -> dict[VendorFile, Path]:
    """The files of others; a server does without those that cannot be had, and `notify` says what is missing then."""
    if request.server is None:
        return find_vendor_files(request.runtime, notify)
    try:
        return find_vendor_files(request.runtime, notify, PAGE_FILES)
    except DsmapError as error:
        notify(f"the page will not open videos: {error.fact}")
        return {}


def _copy_page(files: SiteWriter, *, server: bool) -> None:
    """Copies the page; where a server runs the model nothing works offline, and the service worker ends older ones."""
    for path in sorted(_PAGE.rglob("*")):
        inside = path.relative_to(_PAGE)
        if server and inside.as_posix() == _WORKER:
            files.write(_WORKER, (_PAGE / _SERVER_WORKER).read_bytes())
        elif path.is_file() and not _NOT_SERVED & set(inside.parts) and not path.name.endswith(".d.mts"):
            files.write(inside.as_posix(), path.read_bytes())
    for path in sorted(_LICENCES.glob("*.txt")):
        files.write(f"licences/{path.name}", path.read_bytes())


def _write_model(request: SiteRequest, targets: tuple[str, ...], files: SiteWriter) -> dict[str, Any]:
    """Writes graphs, references and site.json; returns what site.json holds."""
    bundle, manifest = request.bundle, request.bundle.manifest
    here = request.server is None
    precisions = [name for name in PRECISIONS if name in bundle.precisions and here]
    domains = manifest.domains
    references: dict[str, Any] = {}
    for target in targets if here else ():
        reference = make_reference(bundle, target)
        number = domains.index(target)
        names = {"frame": f"reference-{number}-frame.bin", "output": f"reference-{number}-output.bin"}
        files.write(f"model/{names['frame']}", reference.frame_rgb.tobytes())
        files.write(f"model/{names['output']}", reference.output_rgb.tobytes())
        height, width = reference.frame_rgb.shape[:2]
        references[target] = {"width": width, "height": height, **{k: f"model/{v}" for k, v in names.items()}}
    site = {
        "format": SITE_FORMAT,
        "dsmap": __version__,
        "name": manifest.name,
        "domains": list(domains),
        "directions": [{"source": bundle.source_of(target), "target": target} for target in targets],
        "style_dim": manifest.style_dim,
        "sizes": manifest.sizes.model_dump(),
        "styles": {d: manifest.styles[d].model_dump(include={"mean", "std", "axes", "named"}) for d in domains},
        "precisions": precisions,
        "least_psnr": {name: LEAST_PSNR_DB[name] for name in precisions},
        "files": {name: _write_graphs(bundle, name, files) for name in precisions},
        "reference": references,
        "runtime": {file.name: file.bytes for file in VENDOR_FILES if file.name.endswith(".wasm")},
        "licence": manifest.licence,
        "card": manifest.card,
        "server": request.server,
    }
    files.write(SITE_FILE, json.dumps(site, indent=1, ensure_ascii=False).encode() + b"\n")
    return site


def _write_graphs(bundle: Bundle, precision: str, files: SiteWriter) -> dict[str, dict[str, Any]]:
    """Writes the graphs of a precision, those that it lacks in the usual one; each file once."""
    entries: dict[str, dict[str, Any]] = {}
    for component in TRANSLATING:
        entries[component] = {}
        for number, domain in enumerate(bundle.domains):
            graph = bundle.graph_data(component, domain, precision)
            if graph is None:
                continue
            name = f"{component}-{number}.{graph.precision}.{graph.sha256[:8]}.onnx"
            files.write(f"model/{name}", graph.data)
            entries[component][domain] = _entry(name, graph)
    return entries


def _entry(name: str, graph: GraphData) -> dict[str, Any]:
    return {"path": f"model/{name}", "bytes": len(graph.data), "sha256": graph.sha256}


def write_version(files: SiteWriter) -> str:
    """Writes `site-version.js` of a site, every file with its hash, for the service worker; gives the version."""
    hashes = {
        path.relative_to(files.part).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for path in sorted(files.part.rglob("*"))
        if path.is_file() and path.name != _WORKER
    }
    version = hashlib.sha256(json.dumps(hashes).encode()).hexdigest()[:16]
    text = json.dumps({"version": version, "files": hashes}, indent=1)
    files.write(_VERSION_FILE, f"self.SITE_VERSION = {text};\n".encode())
    return version


def _publish(part: Path, out: Path, request: SiteRequest) -> None:
    """Renames the finished site `part` to `out`, if that is still allowed."""
    final = Path(os.path.realpath(out))
    check_site_folder(out, request.bundle, overwrite=request.overwrite)
    if final.is_dir() and any(final.iterdir()):
        replace_folder(part, final)
        return
    try:
        if final.is_dir():
            final.rmdir()
        rename_no_replace(part, final)
    except FileExistsError as error:
        raise naming_error("site", part, final, error) from error
    sync_folder(final.parent)


def _first_visit(site: dict[str, Any]) -> int:
    if not site["precisions"]:
        return 0
    files, direction = site["files"][site["precisions"][-1]], site["directions"][0]
    parts = [files["content_encoder"][direction["source"]]]
    parts += [files[c][direction["target"]] for c in ("mapping", "style_mlp", "decoder") if files[c]]
    return sum(part["bytes"] for part in parts)
