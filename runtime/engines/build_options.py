"""How TensorRT builds an engine, where that is not left to it: optimisation level, TF32, and a cache of timings."""

import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

from dsmap.common.files import read_regular
from dsmap.common.state_files import write_state
from dsmap.errors import DsmapError, InputError

LEVELS = range(6)
"""TensorRT's optimisation levels: how many kernels a build tries. TensorRT's own default is 3."""
_MAX_CACHE_BYTES = 1 << 30
_MAGIC = b"dsmap timing cache 1\n"
_log = logging.getLogger("dsmap")


class BuildOptions(NamedTuple):
    """Options of a build. The first two are part of an engine's key; a timing cache makes builds faster alone."""

    level: int | None = None
    """One of LEVELS; None: TensorRT's default."""
    tf32: bool = True
    """Float32 products may be rounded to TF32, as TensorRT does by default; no effect on half precision."""
    timing_cache: Path | None = None
    """File of measured kernels: read where it exists, written after each build. Plain TensorRT only."""

    def apply(self, trt: Any, config: Any) -> None:
        """Sets them on a builder config. Raises InputError for a timing cache that is another file."""
        if self.level is not None:
            config.builder_optimization_level = self.level
        if not self.tf32:
            config.clear_flag(trt.BuilderFlag.TF32)
        if self.timing_cache is None:
            return
        cache = config.create_timing_cache(self._timings())
        if cache is None or not config.set_timing_cache(cache, False):  # of another GPU or version
            config.set_timing_cache(config.create_timing_cache(b""), False)

    def _timings(self) -> bytes:
        """What the file holds; nothing where there is none. Raises InputError for a file that is not ours."""
        assert self.timing_cache is not None
        if not os.path.lexists(self.timing_cache):
            return b""
        data = read_regular(self.timing_cache, limit=_MAX_CACHE_BYTES, what="the timing cache")
        # TensorRT takes anything, and makes an empty cache of it: the file would be lost.
        if not data.startswith(_MAGIC):
            raise InputError(
                f"{self.timing_cache} is not a timing cache of dsmap",
                "Pass another file to --timing-cache: one that does not exist is made.",
            )
        return data[len(_MAGIC) :]

    def keep_timings(self, config: Any) -> None:
        """Writes the timing cache of a build that is done. A failure is a warning: the engine does not need it."""
        if self.timing_cache is None or (cache := config.get_timing_cache()) is None:
            return
        try:
            write_state(self.timing_cache, _MAGIC + bytes(cache.serialize()))
        except (DsmapError, OSError) as error:
            reason = error.fact if isinstance(error, DsmapError) else error.strerror
            _log.warning("%s: the timings of this build are not kept (%s)", self.timing_cache, reason)


DEFAULT_BUILD = BuildOptions()
