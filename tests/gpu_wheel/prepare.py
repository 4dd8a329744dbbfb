"""Lays out the real onnxruntime-gpu wheel and stand-ins for its CUDA libraries in a folder of their own.

    python tests/gpu_wheel/prepare.py build/gpu-wheel

Nothing is installed: `pip download` brings the wheel (256 MB) and the headers of CUDA (3 MB), and both are unpacked.
What is there already is kept. Needs Linux on x86-64 and a C compiler.
"""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

WHEEL = "onnxruntime-gpu==1.31.1"
HEADERS = ("nvidia-cuda-runtime==13.0.*", "nvidia-cuda-crt==13.0.*")  # of the CUDA that the wheel was built with
SOURCE = Path(__file__).with_name("stand_in_cuda.c")
PROVIDER = Path("onnxruntime/capi/libonnxruntime_providers_cuda.so")
LIBRARIES = {
    "libcudart.so.13": "CUDART",
    "libcublas.so.13": "CUBLAS",
    "libcublasLt.so.13": "CUBLASLT",
    "libcudnn.so.9": "CUDNN",
    "libcurand.so.10": "CURAND",
    "libcuda.so.1": "CUDA",
}


def prepare(folder: Path) -> None:
    """Makes `folder`/site (the wheel) and `folder`/lib (the stand-ins)."""
    folder.mkdir(parents=True, exist_ok=True)
    unpack(WHEEL, folder, folder / "site")
    for package in HEADERS:
        unpack(package, folder, folder / package.partition("=")[0])
    imports = imported(folder / "site" / PROVIDER)
    (folder / "lib").mkdir(exist_ok=True)
    for library, name in LIBRARIES.items():
        build(library, name, imports.get(library, set()), folder)


def unpack(package: str, downloads: Path, target: Path, *options: str) -> None:
    """Downloads a package's wheel without what it needs, and unpacks it. `options`: pip's, such as another platform."""
    if target.exists():
        return
    name = re.split("[=~]", package)[0].replace("-", "_")
    if not list(downloads.glob(f"{name}-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*command, *options, "--dest", str(downloads), package], check=True)
    (wheel,) = downloads.glob(f"{name}-*.whl")
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was stopped
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(part)
    part.rename(target)


def imported(provider: Path) -> dict[str, set[str]]:
    """The functions that the CUDA provider takes from each library; those of cuDNN it looks up by name."""
    listed = subprocess.run(["nm", "-D", "--undefined-only", provider], check=True, capture_output=True, text=True)
    found: dict[str, set[str]] = {}
    for line in listed.stdout.splitlines():
        symbol, _, library = line.split()[-1].partition("@")
        if library in LIBRARIES:
            found.setdefault(library, set()).add(symbol)
    found["libcudnn.so.9"] = set(re.findall(r"cudnn[A-Z]\w+", provider.read_bytes().decode("latin-1")))
    found.setdefault("libcuda.so.1", set()).add("cuTensorMapEncodeTiled")
    return found


def build(library: str, name: str, functions: set[str], folder: Path) -> None:
    """Compiles one stand-in. Its symbols carry the library's name as their version, as the real one's do."""
    own = set(re.findall(r"^[\w *]*?\b(\w+)\(.*\{", SOURCE.read_text(encoding="utf-8"), re.MULTILINE))
    rest = folder / "lib" / f"{name}.c"
    rest.write_text("".join(f"int {function}(void) {{ return 0; }}\n" for function in sorted(functions - own)))
    versions = folder / "lib" / f"{name}.map"
    versions.write_text(f"{library} {{ global: *; }};\n" if name not in ("CUDA", "CUDNN") else "{ global: *; };\n")
    command = [os.environ.get("CC", "cc"), "-O1", "-w", "-fPIC", "-shared", "-pthread", f"-DLIBRARY_{name}"]
    headers = [folder / package.partition("=")[0] / "nvidia" / "cu13" / "include" for package in HEADERS]
    command += [f"-I{path}" for path in headers]
    command += [
        f"-Wl,-soname,{library}",
        f"-Wl,--version-script={versions}",
        "-o",
        str(folder / "lib" / library),
        str(SOURCE),
        str(rest),
    ]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    prepare(Path(sys.argv[1]))
