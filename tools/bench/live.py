"""Measures a live session: a file stands in for the camera, at its own frame rate."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsmap.common.notify import Notify
from dsmap.runtime.live.capture import Capture
from dsmap.runtime.live.open_source import find_source, opener
from dsmap.runtime.live.run import LiveRun, LiveSettings
from dsmap.runtime.live.source import CaptureRequest
from dsmap.runtime.live.styles import style_list
from dsmap.runtime.live.translation import LoadedDirection, Preparation
from dsmap.runtime.live.window import NoWindow
from dsmap.runtime.translator import Translator
from dsmap.tools.bench.model import machine_facts
from dsmap.tools.bench.video import DEMO_CLIP, ModelChoice

WARM_UP = 20
"""Frames of a session before the measured one."""


@dataclass(frozen=True, kw_only=True)
class LiveBenchRequest:
    """What `measure_live` measures."""

    clip: Path | None
    """None: the bundled demo clip. It is repeated until the session ends."""
    model: ModelChoice
    height: int | None
    """Of translation; None: the clip's own."""
    frames: int


def measure_live(request: LiveBenchRequest, say: Notify) -> dict[str, Any]:
    """Frames a second, dropped frames and delays of a session without a window; printed, and returned."""
    clip, frames = request.clip or DEMO_CLIP, request.frames
    machine = machine_facts(say)
    _session(clip, request, WARM_UP)
    run = _session(clip, request, frames)
    if run.error is not None:
        raise run.error
    numbers = run.as_dict()
    say(f"{clip.name}: {numbers['width']}x{numbers['height']}, after {WARM_UP} warm-up frames")
    say(f"backend: {numbers['backend']}, {numbers['backend_description']} ({numbers['backend_reason']})")
    say(run.line())
    for name, times in numbers["stages_ms"].items():
        say(f"{name:10}" + "".join(f"{key:>8} {value:7.1f} ms" for key, value in times.items() if key.startswith("p")))
    say(f"busy {100 * numbers['busy_share']:.0f} % of the time")
    return machine | {"clip": clip.name, "warm_up_frames": WARM_UP} | numbers


def _session(clip: Path, request: LiveBenchRequest, frames: int) -> Any:
    name = find_source(str(clip))
    capture = Capture(name.shown, opener(name, CaptureRequest(), loop=True), lambda text: None)
    styles = tuple(style_list([]))

    def load(target: str) -> Translator:
        return request.model.load(None, target)

    direction = LoadedDirection.load(load, request.model.target(), styles)
    capture.start()
    settings = LiveSettings(preparation=Preparation(height=request.height), styles=styles, frames=frames)
    try:
        run = LiveRun(settings, [(name, capture)], direction, load, window=NoWindow(), notify=lambda text: None)
        return run.run()
    finally:
        capture.stop()
