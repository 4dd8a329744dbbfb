"""What `dsmap-bench live` measures: a camera's delay, with a file in place of the camera, at its own rate."""

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
from dsmap.tools.bench.video import OWN_CLIP, Network

WARM_UP = 20
"""Frames of a session before the measured one; they are not counted."""


def measure_live(clip: Path | None, network: Network, height: int | None, frames: int, say: Notify) -> dict[str, Any]:
    """`dsmap-live` without a window on `clip` (None: the one that comes with dsmap), which begins anew at its end."""
    machine = machine_facts(say)
    _session(clip or OWN_CLIP, network, height, WARM_UP)
    run = _session(clip or OWN_CLIP, network, height, frames)
    if run.error is not None:
        raise run.error
    numbers = run.as_dict()
    say(f"{(clip or OWN_CLIP).name}: {numbers['width']}x{numbers['height']}, after {WARM_UP} frames that do not count")
    say(f"backend: {numbers['backend']}, {numbers['backend_description']} ({numbers['backend_reason']})")
    say(run.line())
    for name, times in numbers["stages_ms"].items():
        say(f"{name:10}" + "".join(f"{key:>8} {value:7.1f} ms" for key, value in times.items() if key.startswith("p")))
    say(f"busy {100 * numbers['busy_share']:.0f} % of the time")
    return machine | {"clip": (clip or OWN_CLIP).name, "warm_up_frames": WARM_UP} | numbers


def _session(clip: Path, network: Network, height: int | None, frames: int) -> Any:
    name = find_source(str(clip))
    capture = Capture(name.shown, opener(name, CaptureRequest(), loop=True), lambda text: None)
    styles = tuple(style_list([]))

    def load(target: str) -> Translator:
        return network.load(None, target)

    direction = LoadedDirection.load(load, network.target(), styles)
    capture.start()
    settings = LiveSettings(preparation=Preparation(height=height), styles=styles, frames=frames)
    try:
        run = LiveRun(settings, [(name, capture)], direction, load, window=NoWindow(), notify=lambda text: None)
        return run.run()
    finally:
        capture.stop()
