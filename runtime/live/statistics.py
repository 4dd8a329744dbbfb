"""Statistics of a live session: the last seconds for the screen, all of it for the report, in constant memory."""

import time
from collections import deque
from typing import NamedTuple

import numpy as np

WINDOW_SECONDS = 3.0
"""The period that the screen's numbers cover."""
_STEP_MS = 0.1
_MAX_MS = 20_000.0  # longer durations count as this
PERCENTILES = (50, 95, 99)


class DurationHistogram:
    """Percentiles of any number of durations, to a tenth of a millisecond."""

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        """Their sum."""
        self.longest = 0.0
        self._counts = np.zeros(round(_MAX_MS / _STEP_MS) + 1, np.int64)

    def add(self, seconds: float) -> None:
        """Add one."""
        self.count += 1
        self.seconds += seconds
        self.longest = max(self.longest, seconds)
        self._counts[min(len(self._counts) - 1, max(0, round(seconds * 1000 / _STEP_MS)))] += 1

    def percentile_ms(self, percent: float) -> float | None:
        """The smallest duration that at least `percent` of them do not exceed; None if there are none."""
        if not self.count:
            return None
        rank = max(1, int(np.ceil(self.count * percent / 100)))
        return round(int(np.searchsorted(np.cumsum(self._counts), rank)) * _STEP_MS, 1)

    def as_dict(self) -> dict[str, float | None]:
        """p50, p95, p99, mean and max in milliseconds."""
        numbers: dict[str, float | None] = {f"p{p}": self.percentile_ms(p) for p in PERCENTILES}
        mean = self.seconds / self.count * 1000 if self.count else None
        numbers["mean"] = round(mean, 1) if mean is not None else None
        numbers["max"] = round(self.longest * 1000, 1) if self.count else None
        return numbers


class FrameTiming(NamedTuple):
    """The times of a frame's stages, by `time.monotonic`."""

    captured: float
    begun: float
    """When the translator took it."""
    translated: float
    """When the result was there."""
    shown: float
    refining: float = 0.0
    """The last so many seconds before `translated` were spent on refining it."""


class RecentStatistics(NamedTuple):
    """Statistics of the last seconds; latencies in milliseconds."""

    fps: float
    latency: float
    latency_p95: float
    busy: float
    """Share of time in which the translator computes, 0 to 1."""


class LiveStatistics:
    """Collects the timing of every frame shown."""

    def __init__(self) -> None:
        self.frames = 0
        self.first_shown: float | None = None
        self.last_shown: float | None = None
        self.paused_seconds = 0.0
        self.latency, self.waiting, self.showing = DurationHistogram(), DurationHistogram(), DurationHistogram()
        self.translating, self.refining = DurationHistogram(), DurationHistogram()
        self._recent: deque[FrameTiming] = deque()

    def add(self, timing: FrameTiming) -> None:
        """Add a frame."""
        self.frames += 1
        self.first_shown = self.first_shown or timing.shown
        self.last_shown = timing.shown
        self.latency.add(timing.shown - timing.captured)
        self.waiting.add(timing.begun - timing.captured)
        self.translating.add(timing.translated - timing.begun - timing.refining)
        self.refining.add(timing.refining)
        self.showing.add(timing.shown - timing.translated)
        self._recent.append(timing)
        self._forget(timing.shown)

    def now(self) -> RecentStatistics | None:
        """Statistics of the last seconds; None with fewer than two frames."""
        now = time.monotonic()
        self._forget(now)
        if len(self._recent) < 2:
            return None
        span = self._recent[-1].shown - self._recent[0].shown
        latencies = [(t.shown - t.captured) * 1000 for t in self._recent]
        busy = sum(t.translated - t.begun for t in list(self._recent)[1:])
        return RecentStatistics(
            fps=(len(self._recent) - 1) / span if span > 0 else 0.0,
            latency=float(np.median(latencies)),
            latency_p95=float(np.percentile(latencies, 95)),
            busy=min(1.0, busy / span) if span > 0 else 0.0,
        )

    @property
    def seconds(self) -> float:
        """From the first frame shown to the last, without pauses."""
        if self.first_shown is None or self.last_shown is None:
            return 0.0
        return max(0.0, self.last_shown - self.first_shown - self.paused_seconds)

    @property
    def fps(self) -> float:
        """Frames per second shown, over the whole session."""
        return (self.frames - 1) / self.seconds if self.frames > 1 and self.seconds > 0 else 0.0

    @property
    def busy(self) -> float:
        """Share of that time in which the translator computed."""
        computed = self.translating.seconds + self.refining.seconds
        return min(1.0, computed / self.seconds) if self.seconds > 0 else 0.0

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0].shown < now - WINDOW_SECONDS:
            self._recent.popleft()
