"""The files of other projects that a site needs: which they are, their hashes, and where to get them.

They are not in the repository: they are large (33 MB as an archive) and not ours. Looked for in turn

1. in the installed package, where `make wheel` puts them (`runtime/web/vendor/`),
2. in the user's cache, where the last run put them,
3. with npm, which downloads the packages and nothing else: nothing of them is installed or run.

Wherever a file comes from, it is used only with the SHA-256 that stands here.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsmap.common.atomic import atomic_write
from dsmap.common.cache_folder import private_folder, user_cache_folder
from dsmap.common.files import read_regular
from dsmap.errors import DsmapError, InputError, first_line

PACKAGED = Path(__file__).parent / "vendor"
"""Where the wheel has the files."""
_CACHE = "web-runtime"
_PATIENCE = 180.0  # seconds for each package: 35 MB on a slow line


@dataclass(frozen=True)
class VendorFile:
    """One file of an npm package."""

    package: str
    """Name and version, as npm takes them."""
    path: str
    """Within the package."""
    sha256: str
    bytes: int

    @property
    def name(self) -> str:
        """What the site calls it."""
        package, last = self.package.rpartition("@")[0], self.path.rpartition("/")[2]
        if last.startswith("LICENSE"):
            return f"{package}.txt"
        return last if last != "index.js" else f"{package}.mjs"


_ORT = "onnxruntime-web@1.30.0"
_MEDIABUNNY = "mediabunny@1.61.0"
_CLIENT_ZIP = "client-zip@2.5.1"
VENDOR_FILES = (
    # WebAssembly alone, for browsers without a GPU.
    VendorFile(
        _ORT,
        "dist/ort.wasm.bundle.min.mjs",
        "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
        73054,
    ),
    VendorFile(
        _ORT,
        "dist/ort-wasm-simd-threaded.wasm",
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
        14239897,
    ),
    # WebGPU, for browsers in which WebAssembly can wait for promises (JSPI): 4 MB compressed.
    VendorFile(
        _ORT,
        "dist/ort.jspi.bundle.min.mjs",
        "07ec090355e11b342c95436db54da2d0c2bd5b1d319745bfd3337e6bdcf170ac",
        115872,
    ),
    VendorFile(
        _ORT,
        "dist/ort-wasm-simd-threaded.jspi.wasm",
        "a54c76f86b0f0d9572380cf1c6292a7b3903716ffcbcd6b0e5c7050bf430eb93",
        16758545,
    ),
    # WebGPU for the others, rewritten so that it can wait: 7 MB compressed.
    VendorFile(
        _ORT,
        "dist/ort.webgpu.bundle.min.mjs",
        "0730816731ce2cdfb06f273da065d4a1c7091eb9d1756a83b2916c8a89d015e2",
        117732,
    ),
    VendorFile(
        _ORT,
        "dist/ort-wasm-simd-threaded.asyncify.wasm",
        "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da",
        26781914,
    ),
    # Reads and writes the containers of videos.
    VendorFile(
        _MEDIABUNNY,
        "dist/bundles/mediabunny.min.mjs",
        "fa696c53494b6b09a8b310ec51e3c44a59e79513234fb832255a38c686162009",
        689443,
    ),
    VendorFile(
        _MEDIABUNNY,
        "LICENSE",
        "3f3d9e0024b1921b067d6f7f88deb4a60cbe7a78e76c64e3f1d7fc3b779b9d04",
        16726,
    ),
    # Puts several images into one archive.
    VendorFile(_CLIENT_ZIP, "index.js", "28c957c53d8e5290951d4b45ccff8ab8c9c37219da08b9d537bbdd595a75706d", 6476),
    VendorFile(_CLIENT_ZIP, "LICENSE.txt", "83a2636dca08f6f9449270dadebf88b54ff574198057c8764f019e23fd9dc596", 1051),
)


PAGE_FILES = tuple(file for file in VENDOR_FILES if file.package != _ORT)
"""What the page needs where a server runs the model."""


def find_vendor_files(
    runtime: Path | None = None,
    notify: Callable[[str], None] = lambda _line: None,
    files: Sequence[VendorFile] = VENDOR_FILES,
) -> dict[VendorFile, Path]:
    """Where each of `files` is, its hash checked; what is nowhere is fetched into the user's cache.

    `runtime`: a folder to take them from instead, with the files or with the unpacked packages (`node_modules`) in it.
    `notify` gets a line before a download. Raises InputError where they cannot be had.
    """
    if runtime is not None:
        return {file: _in_folder(runtime, file) for file in files}
    found = {file: path for file in files if (path := _kept(file)) is not None}
    missing = [file for file in files if file not in found]
    if missing:
        packages = sorted({file.package for file in missing})
        size = " (35 MB)" if _ORT in packages else ""
        notify(f"fetching {', '.join(packages)} with npm, once{size}")
        fetch_vendor_files(missing, private_folder(_CACHE))
        found |= {file: private_folder(_CACHE) / _kept_name(file) for file in missing}
    return found


def fetch_vendor_files(files: Iterable[VendorFile], folder: Path) -> None:
    """Downloads files with npm into `folder`. Raises InputError without npm, and where it fails."""
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(
            "the files that run models in a browser are not here, and there is no npm to fetch them",
            "Install Node.js, which brings npm, or pass --runtime FOLDER with the unpacked npm packages "
            f"{_ORT}, {_MEDIABUNNY} and {_CLIENT_ZIP}.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    files = list(files)
    for package in dict.fromkeys(file.package for file in files):
        with tempfile.TemporaryDirectory() as work:
            archive = _pack(npm, package, Path(work))
            for file in (file for file in files if file.package == package):
                with atomic_write(folder / _kept_name(file)) as part:
                    part.write_bytes(_from_archive(archive, file))


def vendor_bytes(file: VendorFile, path: Path) -> bytes:
    """The bytes of `file`, which lies at `path`. Raises InputError unless they have its hash."""
    return _checked(read_regular(path, limit=file.bytes, what="the file"), file, str(path))


def _kept(file: VendorFile) -> Path | None:
    """Where an intact copy is: in the package, or in the cache, which need not be there."""
    for folder in _keepers():
        path = folder / _kept_name(file)
        try:
            if path.is_file() and path.stat().st_size == file.bytes:
                vendor_bytes(file, path)
                return path
        except (OSError, DsmapError):
            continue
    return None


def _keepers() -> Iterator[Path]:
    yield PACKAGED
    yield user_cache_folder() / _CACHE  # its files are safe by their hashes, whoever may write there


def _kept_name(file: VendorFile) -> str:
    """With the version's hash in it: files of two versions do not collide."""
    return f"{file.sha256[:8]}-{file.name}"


def _in_folder(folder: Path, file: VendorFile) -> Path:
    package = file.package.rpartition("@")[0]
    places = [folder / package / file.path, folder / "node_modules" / package / file.path]
    if not file.path.startswith("LICENSE"):
        places += [folder / file.path, folder / file.name]
    for path in (folder / _kept_name(file), *places):
        if path.is_file():
            vendor_bytes(file, path)
            return path
    raise InputError(
        f"--runtime {folder} has no {package}/{file.path}",
        f"Pass a folder with the npm packages {_ORT}, {_MEDIABUNNY} and {_CLIENT_ZIP} unpacked, such as node_modules.",
    )


def _pack(npm: str, package: str, work: Path) -> Path:
    """Downloads a package's archive into `work`."""
    command = [npm, "pack", "--silent", "--ignore-scripts", package]
    advice = "Check the network, or pass --runtime."
    log = work / "npm.log"
    try:
        code = _call(command, work, log)
    except subprocess.TimeoutExpired as error:
        fact = f"npm could not fetch {package}: it did not end within {_PATIENCE:.0f} s"
        raise InputError(fact, advice) from error
    except OSError as error:
        raise InputError(f"npm could not fetch {package}: {error}", advice) from error
    archives = list(work.glob("*.tgz"))
    if code or len(archives) != 1:
        reason = first_line(log.read_text(errors="replace")) or f"it ended with code {code}"
        raise InputError(f"npm could not fetch {package}: {reason}", advice)
    return archives[0]


def _call(command: list[str], work: Path, log: Path) -> int:
    """Runs npm; its exit code. What npm starts ends with it, and cannot hold us up: there is no pipe to wait for."""
    with log.open("wb") as errors:
        none = subprocess.DEVNULL
        process = subprocess.Popen(command, cwd=work, stdin=none, stdout=none, stderr=errors, start_new_session=True)
        try:
            return process.wait(_PATIENCE)
        finally:
            if process.poll() is None:
                if hasattr(os, "killpg"):
                    os.killpg(process.pid, signal.SIGKILL)
                else:
                    process.kill()
                process.wait()


def _from_archive(archive: Path, file: VendorFile) -> bytes:
    try:
        with tarfile.open(archive) as tar:
            stream = tar.extractfile(f"package/{file.path}")
            data = stream.read(file.bytes + 1) if stream else b""
    except (KeyError, tarfile.TarError, OSError) as error:
        raise DsmapError(f"{file.package} has no {file.path}: {error}", "Update dsmap.") from error
    return _checked(data, file, f"{file.path} of {file.package}")


def _checked(data: bytes, file: VendorFile, name: str) -> bytes:
    got = hashlib.sha256(data).hexdigest()
    if got != file.sha256:
        raise InputError(
            f"{name} is not the file that was tested: SHA-256 {got[:16]}..., expected {file.sha256[:16]}...",
            f"Get {file.package} again.",
        )
    return data


if __name__ == "__main__":  # for `make wheel`
    fetch_vendor_files([file for file in VENDOR_FILES if not (PACKAGED / _kept_name(file)).is_file()], PACKAGED)
