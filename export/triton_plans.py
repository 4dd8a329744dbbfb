"""TensorRT engines of a bundle as plans of Triton Inference Server."""

from typing import NamedTuple

from dsmap.common.files import read_regular
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.bundle.bundle import ENGINE_SUFFIX, ENGINES, Bundle, GraphData
from dsmap.runtime.engines.lookup import check_engine
from dsmap.runtime.engines.sidecars import Sidecar, file_stem, read_sidecar
from dsmap.runtime.engines.size_profile import Size, SizeProfile

_ADVICE = "Build them for the server's GPU and TensorRT: dsmap-export BUNDLE --engine tensorrt --max-batch 8."


class Plan(NamedTuple):
    """An engine that Triton's TensorRT can load: of the same version, on the same GPU."""

    data: bytes
    optimum: Size
    """The size of frames that it is fastest at."""
    max_batch: int


def find_plan(bundle: Bundle, component: str, domain: str, graph: GraphData) -> Plan:
    """The bundle's engine for a graph; of several the one for the largest frames.

    Raises InputError where it has none that was built from this graph: those of TensorRT for RTX do not run there.
    """
    found: list[tuple[int, str, Sidecar]] = []
    stem = file_stem(component, domain, graph.precision, "tensorrt")
    for path in sorted((bundle.folder / ENGINES).glob(f"*{ENGINE_SUFFIX}")):
        if not path.name.startswith(stem):
            continue
        try:
            sidecar = read_sidecar(path)
        except DsmapError:
            continue
        fits = sidecar.key.flavour == "tensorrt" and sidecar.key.onnx_sha256 == graph.sha256
        if fits and check_engine(path, sidecar.key) is None:
            largest = _profile(sidecar).maximum
            found.append((largest.width * largest.height, path.name, sidecar))
    if not found:
        fact = f"{bundle.manifest.name} has no TensorRT engine for {component}.{domain} in {graph.precision}"
        raise InputError(fact, _ADVICE)
    _, name, sidecar = max(found, key=lambda one: one[:2])
    data = read_regular(bundle.folder / ENGINES / name, limit=sidecar.bytes, what="the engine")
    return Plan(data, _profile(sidecar).optimum, sidecar.key.batch)


def _profile(sidecar: Sidecar) -> SizeProfile:
    return SizeProfile.parse(sidecar.key.profile, multiple_of=1, max_batch=sidecar.key.batch)
