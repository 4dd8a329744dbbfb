"""Measures a live session: a file stands in for the camera, at its own frame rate."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dsmap.common.notify import Notify
from dsmap.common.scratch import scratch_folder
from dsmap.runtime.bundle.bundle import MEAN
from dsmap.runtime.live.capture import Capture
from dsmap.runtime.live.open_source import find_source, opener
from dsmap.runtime.live.report import LiveReport
from dsmap.runtime.live.request import open_window
from dsmap.runtime.live.run import LiveRun, LiveSettings
from dsmap.runtime.live.source import CaptureRequest
from dsmap.runtime.live.styles import LiveStyle
from dsmap.runtime.live.translation import LoadedDirection, Preparation
from dsmap.runtime.translator import Translator
from dsmap.tools.bench.model import machine_facts
from dsmap.tools.bench.video import DEMO_CLIP, ModelChoice, prepared_clip

WARM_UP = 20
"""Frames of a session before the measured one."""
_UNSEEN = "not in it: the camera's exposure and driver (tens of ms), and the screen's refresh (up to 17 ms at 60 Hz)"


@dataclass(frozen=True, kw_only=True)
class LiveBenchRequest:
    """What `measure_live` measures."""

    clip: Path | None
    """None: the bundled demo clip. It is repeated until the session ends."""
    model: ModelChoice
    size: str | None
    """WIDTHxHEIGHT that the clip is resized to first; None: its own."""
    preparation: Preparation
    """Height and refinement; a height that is chosen by speed is chosen before the measured session."""
    window: bool
    """Show the frames."""
    frames: int


def measure_live(request: LiveBenchRequest, say: Notify) -> dict[str, Any]:
    """Frames a second, dropped frames and delays of a session; printed, and returned."""
    machine = machine_facts(say)
    with scratch_folder("bench") as folder:
        clip = request.clip or DEMO_CLIP
        name = clip.name
        if request.size is not None:
            clip, _ = prepared_clip(clip, folder, request.size, request.frames)
        found = _session(clip, request, WARM_UP, say).translated_at
        # Given the height that the first one has found, the second one measures nothing but frames.
        chosen = replace(request.preparation, height=found[1] if found else None, target_fps=None)
        report = _session(clip, replace(request, preparation=chosen), request.frames, lambda text: None)
    if report.error is not None:
        raise report.error
    numbers = report.as_dict()
    _say_numbers(name, numbers, request, say)
    say(report.line())
    say(_UNSEEN)
    return machine | {"clip": name, "warm_up_frames": WARM_UP, "refine": request.preparation.refine} | numbers


def _say_numbers(name: str, numbers: dict[str, Any], request: LiveBenchRequest, say: Notify) -> None:
    size, inside = (f"{numbers[f'{kind}width']}x{numbers[f'{kind}height']}" for kind in ("", "translated_"))
    at = f", translated at {inside} and refined" if inside != size else ""
    say(f"{name}: {size}{at}, after {WARM_UP} warm-up frames")
    say(f"backend: {numbers['backend']}, {numbers['backend_description']} ({numbers['backend_reason']})")
    for stage, times in {**numbers["stages_ms"], "altogether": numbers["latency_ms"]}.items():
        say(f"{stage:10}" + "".join(f"{key:>8} {value:7.1f} ms" for key, value in times.items() if key.startswith("p")))
    say(f"busy {100 * numbers['busy_share']:.0f} % of the time")


def _session(clip: Path, request: LiveBenchRequest, frames: int, notify: Notify) -> LiveReport:
    name = find_source(str(clip))
    capture = Capture(name.shown, opener(name, CaptureRequest(), loop=True), lambda text: None)
    styles = (LiveStyle(MEAN, None),)  # which models without styles have, too

    def load(target: str) -> Translator:
        return request.model.load(None, target)

    window = open_window(request.window)
    direction = LoadedDirection.load(load, request.model.target(), styles)
    capture.start()
    settings = LiveSettings(preparation=request.preparation, styles=styles, frames=frames)
    try:
        run = LiveRun(settings, [(name, capture)], direction, load, window=window, notify=notify)
        return run.run()
    finally:
        capture.stop()
