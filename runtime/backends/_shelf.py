"""Where the runners' engines come from: the bundle, the user's cache, or a build into the cache, told in one line."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from dsmap.errors import DsmapError
from dsmap.runtime.bundle import ENGINES, Bundle
from dsmap.runtime.bundle_engines import EngineKey, build_engine, find_engine, read_engine, read_sidecar
from dsmap.runtime.engine_cache import VARIABLE, cached_engine_path, make_cache_folder, user_cache_folder
from dsmap.trt import DEFAULT_ARCHITECTURES, Flavour, covers, known_architectures
from dsmap.trt_build import LARGEST_SIDE, Size, SizeProfile
from dsmap.trt_progress import Progress

E = TypeVar("E")
Load = Callable[[bytes, str, SizeProfile], E]
"""Makes an engine of its bytes, what messages call it, and the sizes it is for; DsmapError where it does not load."""

_SECONDS_BETWEEN = 10.0
_log = logging.getLogger("dsmap")


def say(line: str) -> None:
    """One line about what takes time or is otherwise than asked: on stderr, unless the program set up logging."""
    _log.warning(line)


class Graph(NamedTuple):
    """An ONNX file of a bundle."""

    path: Path
    sha256: str
    precision: str


class Shelf:
    """The engines of one bundle for one TensorRT and GPU."""

    def __init__(
        self, bundle: Bundle, flavour: Flavour, architecture: str, precision: str, *, exact: bool = False
    ) -> None:
        """`exact`: engines that are built take one size alone; else from half of it to twice."""
        self._bundle, self._flavour, self._architecture = bundle, flavour, architecture
        self._precision, self._exact = precision, exact
        self._stops = 0

    def has(self, component: str, domain: str) -> bool:
        """Whether the bundle has such a graph."""
        return self._graph(component, domain) is not None

    def stop(self) -> None:
        """Ends a build that is under way, from any thread."""
        self._stops += 1

    def open(self, component: str, domain: str, size: Size, batch: int, load: Load[E]) -> E:
        """The engine for frames of this size and batch, loaded.

        Raises DsmapError with TensorRT's reason where it cannot be built or, newly built, not be loaded.
        """
        graph = self._graph(component, domain)
        assert graph is not None, "a bundle is read only if it has it"
        title = f"{component}.{domain} {graph.precision}"
        profile = self.profile(size, batch, component)
        key = EngineKey.of(graph.sha256, self._flavour, (self._architecture,), graph.precision, profile)
        reasons = []
        for folder in (self._bundle.folder / ENGINES, user_cache_folder() / ENGINES):
            own = folder.parent == self._bundle.folder
            path, refused = find_engine(folder, component, domain, key, width=size.width, height=size.height)
            # The cache holds engines of all models and sizes: of them only those tell that have become useless.
            reasons += [reason for reason in refused if own or "another TensorRT" in reason or "another GPU" in reason]
            if path is None or (self._exact and not own and read_sidecar(path).key.profile != key.profile):
                continue
            try:
                return self._load(path, title, load)
            except DsmapError as error:
                reasons.append(error.fact)
        path = self._build(graph, key, profile, component, domain, title, size, reasons)
        return self._load(path, title, load)

    def profile(self, size: Size, batch: int, component: str) -> SizeProfile:
        """The sizes of an engine that is built for frames of `size`: it is fastest there."""
        sizes = self._bundle.manifest.sizes
        multiple, least = sizes.multiple_of, sizes.style_minimum if component == "style_encoder" else sizes.minimum

        def scaled(factor: float) -> Size:
            sides = [int(side * factor) // multiple * multiple for side in size]
            floor = -(-least // multiple) * multiple
            return Size(*(min(max(side, floor), LARGEST_SIDE // multiple * multiple) for side in sides))

        low, high = (size, size) if self._exact else (scaled(0.5), scaled(2))
        low = Size(min(low.width, size.width), min(low.height, size.height))
        high = Size(max(high.width, size.width), max(high.height, size.height))
        return SizeProfile(minimum=low, optimum=size, maximum=high, multiple_of=multiple, max_batch=batch)

    def _graph(self, component: str, domain: str) -> Graph | None:
        """As `Bundle.graph`, with the precision that the file is really in: of some parts there is one only."""
        manifest = self._bundle.manifest
        for precision, part in (
            (self._precision, manifest.variants.get(self._precision)),
            (manifest.precision, manifest.components),
        ):
            if part is not None and (file := getattr(part, component).get(domain)):
                return Graph(self._bundle.path(file), file.sha256, precision)
        return None

    def _load(self, path: Path, title: str, load: Load[E]) -> E:
        key = read_sidecar(path).key
        profile = SizeProfile.parse(
            key.profile, multiple_of=self._bundle.manifest.sizes.multiple_of, max_batch=key.batch
        )
        return load(read_engine(path, key, self._flavour).data, title, profile)

    def _build(
        self,
        graph: Graph,
        key: EngineKey,
        profile: SizeProfile,
        component: str,
        domain: str,
        title: str,
        size: Size,
        reasons: list[str],
    ) -> Path:
        make_cache_folder()
        path = cached_engine_path(key, component, domain)
        why = f" ({reasons[0]})" if reasons else ""
        say(f"building the engine {title} for {size} with {self._flavour.title}, kept for the next time{why}")
        refusal: DsmapError | None = None
        stops = self._stops
        for architectures in self._architectures():
            try:
                build_engine(
                    graph.path,
                    path,
                    component=component,
                    domain=domain,
                    precision=graph.precision,
                    profile=profile,
                    flavour=self._flavour,
                    architectures=architectures,
                    progress=self._progress(title, stops),
                    option=VARIABLE,
                )
                return path
            except DsmapError as error:
                refusal = refusal or error
                if self._stops != stops:
                    break
        assert refusal is not None
        raise refusal

    def _architectures(self) -> list[tuple[str, ...]]:
        """What to build for: this GPU; where TensorRT for RTX does not know it by name, then for it and all later."""
        here = (self._architecture,)
        unknown = self._flavour.name == "rtx" and self._architecture not in known_architectures(self._flavour)
        return [here, DEFAULT_ARCHITECTURES] if unknown and covers(DEFAULT_ARCHITECTURES, here[0]) else [here]

    def _progress(self, title: str, stops: int) -> Progress:
        told = time.monotonic()

        def progress(_phase: str, step: int, steps: int) -> None:
            nonlocal told
            if self._stops != stops:
                raise DsmapError(f"stopped while building {title}", "Run it again: what was built is kept.")
            if time.monotonic() - told > _SECONDS_BETWEEN:
                told = time.monotonic()
                say(f"building the engine {title}: {100 * step // steps} %")

        return progress
