"""Opens a backend's engines: from the bundle, from the user's cache, or newly built into the cache."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from dsmap.common.cache_folder import VARIABLE, check_private, user_cache_folder
from dsmap.common.files import is_own_file
from dsmap.common.text import printable
from dsmap.errors import DsmapError
from dsmap.runtime.bundle.bundle import ENGINES, Bundle
from dsmap.runtime.cuda.base import OutOfMemoryError
from dsmap.runtime.engines.build import build_engine
from dsmap.runtime.engines.build_options import DEFAULT_BUILD, BuildOptions
from dsmap.runtime.engines.cache import cached_engine_path, make_cache_folder
from dsmap.runtime.engines.lookup import find_engine, read_engine, trust_fault
from dsmap.runtime.engines.progress import BuildProgress
from dsmap.runtime.engines.sidecars import REBUILD, EngineKey, read_sidecar
from dsmap.runtime.engines.size_profile import MAX_SIDE, Size, SizeProfile
from dsmap.runtime.engines.tensorrt_api import DEFAULT_ARCHITECTURES, Flavour, covers, known_architectures
from dsmap.runtime.engines.trust import NOT_OURS, was_built_here

E = TypeVar("E")
Load = Callable[[bytes, str, SizeProfile], E]
"""Makes an engine of its bytes, what messages call it, and the sizes it is for.

OutOfMemoryError where the device is full, DsmapError where it does not load for another reason."""

_SECONDS_BETWEEN = 10.0
_SECONDS_TO_STOP = 0.5
_NOT_BUILT = "it was not built here by you"
_USELESS = ("another TensorRT", "another GPU", _NOT_BUILT)
_log = logging.getLogger("dsmap")


def log_line(line: str) -> None:
    """Logs a line about something slow or unexpected: to stderr, unless the program has set up logging."""
    _log.warning(printable(line))  # it may quote a sidecar, or a name of a bundle's files


class EngineStore:
    """The engines of one bundle for one version of TensorRT and one GPU."""

    def __init__(
        self,
        bundle: Bundle,
        flavour: Flavour,
        architecture: str,
        precision: str,
        *,
        trust_engines: bool = False,
        build: BuildOptions = DEFAULT_BUILD,
    ) -> None:
        """`trust_engines`: the bundle's engines are loaded wherever they come from; else only those that this user has
        built. `build`: how engines are, or have been, built; those of another level are taken, too."""
        self._bundle, self._flavour, self._architecture = bundle, flavour, architecture
        self._precision, self._trust, self._build_options = precision, trust_engines, build
        self._stops = 0

    def has(self, component: str, domain: str) -> bool:
        """Whether the bundle has such a graph."""
        return self._bundle.find(component, domain, self._precision) is not None

    def stop(self) -> None:
        """Stops a running build, from any thread."""
        self._stops += 1

    def open(self, component: str, domain: str, size: Size, batch: int, load: Load[E]) -> E:
        """The engine for frames of this size and batch, loaded.

        Raises OutOfMemoryError as `load` does, and DsmapError with TensorRT's reason where it cannot be built or, newly
        built, not be loaded, or where the user's cache may have been written to by others.
        """
        found = self._bundle.find(component, domain, self._precision)
        assert found is not None, "a bundle is read only if it has it"
        file, precision = found
        title = f"{component}.{domain} {precision}"
        profile = self.profile(size, batch, component)
        key = EngineKey.of(file.sha256, self._flavour, (self._architecture,), precision, profile, self._build_options)
        reasons: list[str] = []

        def kept(*finds: Callable[..., Path | None]) -> E | None:
            for find in finds:
                path = find(component, domain, key, size, reasons)
                if path is None:
                    continue
                try:
                    data, built_for = self._read(path)
                except DsmapError as error:
                    reasons.append(error.fact)
                    continue
                try:
                    return load(data, title, built_for)
                except OutOfMemoryError:  # nothing is wrong with the engine: another one would not fit either
                    raise
                except DsmapError as error:
                    reasons.append(error.fact)
            return None

        if (opened := kept(self._in_bundle, self._in_cache)) is not None:
            return opened
        make_cache_folder()
        path = cached_engine_path(key, component, domain)
        with self._alone(path, title) as waited:
            if waited and (opened := kept(self._in_cache)) is not None:
                return opened
            self._build(path, profile, component, domain, title, size, reasons)
            data, built_for = self._read(path)
        return load(data, title, built_for)

    @contextmanager
    def _alone(self, path: Path, title: str) -> Iterator[bool]:
        """Locks an engine of the cache against other processes, which build it too; gives whether one held the lock."""
        from filelock import FileLock, Timeout

        lock, waited, stops = FileLock(f"{path}.lock", fallback_to_soft=False), False, self._stops
        while not lock.is_locked:
            try:
                lock.acquire(timeout=_SECONDS_TO_STOP if waited else 0)
            except Timeout:
                if not waited:
                    log_line(f"waiting for another process that builds the engine {title}")
                waited = True
                if self._stops != stops:
                    raise DsmapError(f"stopped while waiting for {title}", "Run it again.") from None
            except (OSError, NotImplementedError):  # a file system without locks
                break
        try:
            yield waited
        finally:
            lock.release()

    def _in_bundle(self, component: str, domain: str, key: EngineKey, size: Size, reasons: list[str]) -> Path | None:
        """The bundle's engine; the reasons against others are added to `reasons`."""
        path, refused = find_engine(
            self._bundle.folder / ENGINES,
            component,
            domain,
            key,
            width=size.width,
            height=size.height,
            fault_of=None if self._trust else trust_fault,
        )
        reasons += refused
        return path

    def _in_cache(self, component: str, domain: str, key: EngineKey, size: Size, reasons: list[str]) -> Path | None:
        """That of the user's cache. Raises DsmapError for a cache that others may write to."""
        check_private(ENGINES)
        path, refused = find_engine(
            user_cache_folder() / ENGINES,
            component,
            domain,
            key,
            width=size.width,
            height=size.height,
            fault_of=lambda path: _NOT_BUILT if not is_own_file(path) or trust_fault(path) else None,
        )
        # It holds engines of all models and sizes: only those that have become useless are reported, and the one that
        # is built anew.
        ours = cached_engine_path(key, component, domain).name
        reasons += [reason for reason in refused if reason.startswith(ours) or any(what in reason for what in _USELESS)]
        return path

    def profile(self, size: Size, batch: int, component: str) -> SizeProfile:
        """The sizes of an engine built for frames of `size`: half to twice as large, and fastest at `size`."""
        sizes = self._bundle.manifest.sizes
        multiple, least = sizes.multiple_of, sizes.style_minimum if component == "style_encoder" else sizes.minimum

        def scaled(factor: float) -> Size:
            sides = [int(side * factor) // multiple * multiple for side in size]
            floor = -(-least // multiple) * multiple
            return Size(*(min(max(side, floor), MAX_SIDE // multiple * multiple) for side in sides))

        low, high = scaled(0.5), scaled(2)
        low = Size(min(low.width, size.width), min(low.height, size.height))
        high = Size(max(high.width, size.width), max(high.height, size.height))
        return SizeProfile(minimum=low, optimum=size, maximum=high, multiple_of=multiple, max_batch=batch)

    def _read(self, path: Path) -> tuple[bytes, SizeProfile]:
        """An engine's bytes, which may be loaded. Raises DsmapError."""
        engine = read_engine(path, read_sidecar(path).key, self._flavour)
        key, trusted = engine.sidecar.key, self._trust and path.parent == self._bundle.folder / ENGINES
        # Once more, for these very bytes: the files may have changed since the engine was chosen.
        if not trusted and not was_built_here(engine.sidecar.engine_sha256):
            raise DsmapError(f"{path.name}: {NOT_OURS}", REBUILD)
        multiple = self._bundle.manifest.sizes.multiple_of
        return engine.data, SizeProfile.parse(key.profile, multiple_of=multiple, max_batch=key.batch)

    def _build(
        self,
        path: Path,
        profile: SizeProfile,
        component: str,
        domain: str,
        title: str,
        size: Size,
        reasons: list[str],
    ) -> None:
        graph = self._bundle.graph_data(component, domain, self._precision)
        assert graph is not None, "it was found"
        why = f" ({reasons[0]})" if reasons else ""
        log_line(f"building the engine {title} for {size} with {self._flavour.title}, kept for the next time{why}")
        refusal: DsmapError | None = None
        stops = self._stops
        for architectures in self._architectures():
            try:
                build_engine(
                    graph.data,
                    path,
                    component=component,
                    domain=domain,
                    precision=graph.precision,
                    profile=profile,
                    flavour=self._flavour,
                    architectures=architectures,
                    build=self._build_options,
                    progress=self._progress(title, stops),
                    option=VARIABLE,
                )
                return
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

    def _progress(self, title: str, stops: int) -> BuildProgress:
        reported = time.monotonic()

        def progress(_phase: str, step: int, steps: int) -> None:
            nonlocal reported
            if self._stops != stops:
                raise DsmapError(f"stopped while building {title}", "Run it again: what was built is kept.")
            if time.monotonic() - reported > _SECONDS_BETWEEN:
                reported = time.monotonic()
                log_line(f"building the engine {title}: {100 * step // steps} %")

        return progress
