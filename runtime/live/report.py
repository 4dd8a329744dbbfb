"""The report on a live session, and its summary in one line."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from dsmap.runtime.hub.models import source_of
from dsmap.runtime.live.capture import Capture
from dsmap.runtime.live.source import SourceName
from dsmap.runtime.live.statistics import LiveStatistics
from dsmap.runtime.translator import Translator

StoppedBy = Literal["quit", "window closed", "frames", "seconds", "end of file", "signal", "error"]

_FROM = {
    "camera": "delivery by the camera's driver (without exposure and the driver's buffer)",
    "stream": "the frame being decoded from the stream (without the sender and the network)",
    "file": "the frame's due time by the file's clock",
}
_TO_WINDOW = "the window system (without the screen's own delay)"
_TO_RESULT = "the translated frame"


@dataclass(frozen=True, kw_only=True)
class LiveReport:
    """The numbers of a session; see `as_dict`."""

    translator: Translator
    cameras: Sequence[tuple[SourceName, Capture]]
    statistics: LiveStatistics
    translated: int
    """Frames translated; a few of them may not have been shown."""
    window: bool
    stopped_by: StoppedBy
    error: Exception | None = None
    """The failure that ended it."""
    recordings: list[dict[str, object]] = field(default_factory=list)
    snapshots: list[str] = field(default_factory=list)
    first_shown_seconds: float | None = None
    """From the start of the command to the first frame shown, loading the model included."""
    style: str
    """The active one at the end."""
    size: tuple[int, int] | None = None
    """(width, height) of the results."""
    translated_at: tuple[int, int] | None = None
    """(width, height) that the network worked at: less than `size` where results are refined."""

    @property
    def captured(self) -> int:
        """Frames that the cameras delivered, wanted or not."""
        return sum(capture.captured for _, capture in self.cameras)

    @property
    def dropped(self) -> int:
        """Frames replaced by a newer one before the translator was free."""
        return sum(capture.latest.dropped for _, capture in self.cameras)

    @property
    def reconnections(self) -> int:
        """How often a lost camera came back."""
        return sum(capture.reconnections for _, capture in self.cameras)

    @property
    def latency_from(self) -> str:
        """Where the latency starts."""
        name, capture = self.cameras[0]
        by_the_clock = capture.info is not None and not capture.info.live  # also for a complete video on a web server
        return _FROM["file" if by_the_clock else name.kind]

    @property
    def latency_to(self) -> str:
        """Where the latency ends."""
        return _TO_WINDOW if self.window else _TO_RESULT

    def line(self) -> str:
        """The session in one line."""
        if not self.statistics.frames:
            return f"no frame was translated ({self.captured} captured)"
        latency = self.statistics.latency
        return (
            f"{self.statistics.frames} frames, {self.statistics.fps:.1f} fps, {self.dropped} dropped; latency"
            f" {latency.percentile_ms(50):.0f} ms median, {latency.percentile_ms(95):.0f} ms p95, from"
            f" {self.latency_from} to {self.latency_to}"
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON: times in seconds or, where the name says so, milliseconds."""
        statistics = self.statistics
        return {
            "model": self.translator.model_name,
            **source_of(self.translator.bundle.folder),
            "source": self.translator.source,
            "target": self.translator.target,
            "backend": self.translator.backend_name,
            "backend_description": self.translator.backend_description,
            "backend_reason": self.translator.backend_reason,
            "precision": self.translator.precision,
            "style": self.style,
            "width": self.size[0] if self.size else None,
            "height": self.size[1] if self.size else None,
            "translated_width": self.translated_at[0] if self.translated_at else None,
            "translated_height": self.translated_at[1] if self.translated_at else None,
            "frames_captured": self.captured,
            "frames_unwanted": sum(capture.unwanted for _, capture in self.cameras),
            "frames_dropped": self.dropped,
            "frames_translated": self.translated,
            "frames_displayed": statistics.frames,
            "seconds": round(statistics.seconds, 3),
            "fps": round(statistics.fps, 2),
            "first_frame_seconds": _rounded(self.first_shown_seconds),
            "latency_ms": {**statistics.latency.as_dict(), "from": self.latency_from, "to": self.latency_to},
            "stages_ms": {
                "wait": statistics.waiting.as_dict(),
                "translate": statistics.translating.as_dict(),
                "refine": statistics.refining.as_dict(),
                "show": statistics.showing.as_dict(),
            },
            "busy_share": round(statistics.busy, 3),
            "reconnections": self.reconnections,
            "cameras": [_camera(name, capture) for name, capture in self.cameras],
            "recordings": self.recordings,
            "snapshots": self.snapshots,
            "stopped_by": self.stopped_by,
            "error": getattr(self.error, "fact", None) or (str(self.error) if self.error else None),
        }


def _camera(name: SourceName, capture: Capture) -> dict[str, Any]:
    info = capture.info
    return {
        "name": name.shown,
        "kind": name.kind,
        "width": info.width if info else None,
        "height": info.height if info else None,
        "rate": _rounded(info.rate) if info else None,
        "format": info.pixel_format if info else None,
        "refused": info.refused if info else None,
        "decoder": info.decoder if info else None,
        "captured": capture.captured,
        "unwanted": capture.unwanted,
        "dropped": capture.latest.dropped,
        "reconnections": capture.reconnections,
        "lost_seconds": round(capture.lost_seconds + capture.lost_for(), 3),
    }


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 3)
