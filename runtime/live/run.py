"""Running a live session from the first frame to the last: cameras, network, window, keys and recordings.

    run = LiveRun(settings, cameras, direction, load, window=window, notify=notify)
    report = run.run()

It runs in the caller's thread, which must be the main one where there is a window.
"""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dsmap.common.interrupts import StopRequest, stop_on_signals
from dsmap.common.notify import Notify
from dsmap.errors import DsmapError
from dsmap.runtime.live.capture import Capture
from dsmap.runtime.live.hud import Status
from dsmap.runtime.live.recordings import Recordings, SnapshotWriter
from dsmap.runtime.live.report import LiveReport, StoppedBy
from dsmap.runtime.live.screen import Screen
from dsmap.runtime.live.session import Action, SessionState
from dsmap.runtime.live.source import SourceName
from dsmap.runtime.live.statistics import FrameTiming, LiveStatistics
from dsmap.runtime.live.styles import LiveStyle, StyleSelector
from dsmap.runtime.live.translation import (
    DirectionLoader,
    LiveFrame,
    LoadedDirection,
    LoadTranslator,
    Preparation,
    TranslationThread,
)
from dsmap.runtime.live.virtual_camera import VirtualCamera
from dsmap.runtime.live.window import NoWindow, Window

_POLL = 0.004  # seconds to wait for a frame; short, as Qt keeps only one key between two polls
_USUAL_RATE = 30.0  # where a camera does not report its own


@dataclass(frozen=True, kw_only=True)
class LiveSettings:
    """Settings of a session."""

    preparation: Preparation = Preparation()  # noqa: RUF009  # frozen
    styles: tuple[LiveStyle, ...]
    """For the keys; the session begins with the first that the direction has."""
    record: Path | None = None
    """Record to this file from the beginning."""
    overwrite: bool = False
    frames: int | None = None
    """Stop after this many frames."""
    seconds: float | None = None
    """Stop this long after the first frame."""
    patience: float | None = None
    """Seconds to wait for a lost camera; None for ever."""


class LiveRun:
    """A session over started `cameras`; the first is shown first. `direction` was loaded by `load`.

    `virtual_camera` gets every result. `notify` gets a line about each event, from any thread. `began`: start of the
    command, by `time.monotonic`, for the report. `run` closes everything that was passed in.
    """

    def __init__(
        self,
        settings: LiveSettings,
        cameras: Sequence[tuple[SourceName, Capture]],
        direction: LoadedDirection,
        load: LoadTranslator,
        *,
        window: Window,
        notify: Notify,
        virtual_camera: VirtualCamera | None = None,
        began: float | None = None,
    ) -> None:
        target = direction.translator.target
        self.session = SessionState(StyleSelector(settings.styles, np.random.default_rng(), target))
        self.statistics = LiveStatistics()
        self._settings = settings
        self._cameras = cameras
        self._window = window
        self._notify = notify
        self._virtual_camera = virtual_camera
        self._began = time.monotonic() if began is None else began
        self._screen = Screen(window, self.session, self._status)
        self._recordings = Recordings(settings.record, self._say, overwrite=settings.overwrite)
        self._snapshots = SnapshotWriter(self._say)
        self._directions = DirectionLoader(load, settings.styles, direction)
        self._wanted_domain = target
        self._translation = TranslationThread(
            cameras[0][1], direction, settings.preparation, lambda: self.session.style
        )
        self._paused_at: float | None = None
        self._height_said = False
        for _, capture in cameras:
            capture.notify = self._say

    def run(self) -> LiveReport:
        """Run until something stops it. Failures are in the report, with everything that was done."""
        error: Exception | None = None
        stopped_by: StoppedBy = "error"
        with stop_on_signals() as stop:
            try:
                self._translation.capture.wanted = True
                self._translation.start()
                if self._settings.record is not None:
                    self._record()
                stopped_by = self._loop(stop)
            except Exception as failure:
                error = failure
            finally:
                self._close(stop)
        return self._report(stopped_by, error or self._recordings.error)

    def _say(self, text: str) -> None:
        self.session.note(text)
        self._notify(text)

    def _loop(self, stop: StopRequest) -> StoppedBy:
        while True:
            frame = self._translation.results.take(_POLL)
            if self.session.paused:
                frame = None  # it was in progress when the key was pressed
            if frame is not None:
                self._deliver(frame)
            else:
                self._screen.refresh()
            key = self._window.key()
            if frame is not None:
                self._measure(frame)
            if key is not None and self._press(key):
                return "quit"
            self._check_background()
            if (reason := self._reason_to_stop(stop)) is not None:
                return reason

    def _deliver(self, frame: LiveFrame) -> None:
        self._screen.show(frame)
        self._recordings.put(frame)
        if self._virtual_camera is not None:
            self._virtual_camera.send(frame.result_rgb)

    def _measure(self, frame: LiveFrame) -> None:
        now = time.monotonic()
        self.statistics.add(FrameTiming(frame.captured, frame.begun, frame.done, now, frame.refining))

    def _press(self, key: str) -> bool:
        """Handle a key; whether it ends the session."""
        action = self.session.press(key)
        if action is Action.DIRECTION:
            self._turn_round()
        elif action is Action.RECORD:
            self._record()
        elif action is Action.SNAPSHOT and self._screen.frame is not None:
            self._snapshots.take(self._screen.frame)
        elif action is Action.CAMERA:
            self._next_camera()
        elif action in (Action.LARGER, Action.SMALLER):
            lines = self._translation.working_height.step(1 if action is Action.LARGER else -1)
            if lines is not None:
                self.session.note(f"{lines} lines")
        self._follow_pause()
        self._screen.refresh(at_once=True)
        return action is Action.QUIT

    def _check_background(self) -> None:
        """React to other threads: finished recordings, and a loaded direction."""
        self.session.tick()
        self._recordings.report_finished()
        self._say_height()
        if self._wanted_domain != self._translation.direction.translator.target:
            try:
                direction = self._directions.take(self._wanted_domain)
            except DsmapError as error:
                self._wanted_domain = self._translation.direction.translator.target
                self._say(f"no other direction: {error.fact}")
                return
            if direction is not None:
                self.session.turn_round(self._wanted_domain)
                self._translation.direction = direction

    def _say_height(self) -> None:
        """Once, what height was chosen."""
        found, fps = self._translation.working_height.found, self._settings.preparation.target_fps
        if found is None or self._height_said:
            return
        self._height_said = True
        if not found.fast_enough:
            size = f"{found.height} lines, the smallest height chosen," if found.height else "frames of this size"
            self._say(f"{size} are still slower than {fps:g} frames a second")
        elif found.height is not None:
            keys = "" if isinstance(self._window, NoWindow) else "; + and - change it"
            self._say(f"{found.height} lines, for {fps:g} frames a second{keys}")

    def _reason_to_stop(self, stop: StopRequest) -> StoppedBy | None:
        """Why to stop now, if so. Raises the error of a camera or the translation."""
        settings, capture = self._settings, self._translation.capture
        for error in (self._translation.error, *(camera.error for _, camera in self._cameras)):
            if error is not None:
                raise error
        if stop:
            return "signal"
        if self._window.closed:
            return "window closed"
        if settings.frames is not None and self.statistics.frames >= settings.frames:
            return "frames"
        first = self.statistics.first_shown
        if settings.seconds is not None and first is not None and time.monotonic() - first >= settings.seconds:
            return "seconds"
        if self._translation.exhausted and self._translation.results.empty and not self.session.paused:
            return "end of file"
        if settings.patience is not None and capture.lost_for() > settings.patience:
            raise DsmapError(
                f"{capture.name} was lost and did not come back within {settings.patience:g} s",
                "check the cable, the network and the sender; --patience sets how long to wait",
            )
        return None

    def _turn_round(self) -> None:
        translator = self._translation.direction.translator
        self._wanted_domain = translator.source if self._wanted_domain == translator.target else translator.target
        self._directions.want(self._wanted_domain)

    def _next_camera(self) -> None:
        if len(self._cameras) < 2:
            self.session.note("there is only one camera")
            return
        captures = [capture for _, capture in self._cameras]
        capture = captures[(captures.index(self._translation.capture) + 1) % len(captures)]
        self._translation.capture.wanted = False
        self._translation.capture = capture
        capture.wanted = not self.session.paused
        self.session.note(capture.name)

    def _follow_pause(self) -> None:
        if self.session.paused == (self._paused_at is not None):
            return
        now = time.monotonic()
        self._translation.capture.wanted = not self.session.paused
        if self._paused_at is None:
            self._paused_at = now
        else:
            self.statistics.paused_seconds += now - self._paused_at
            self._paused_at = None

    def _record(self) -> None:
        if self._recordings.on:
            self._recordings.stop()
            return
        info = self._translation.capture.info
        try:
            self._recordings.start((info.rate if info else None) or _USUAL_RATE)
        except OSError as error:
            self._say(f"no recording: {error.strerror or error}")

    def _status(self) -> Status:
        frame, capture = self._screen.frame, self._translation.capture
        # Labels are those of the frame that is shown: they change with the picture.
        direction = (frame.direction if frame and frame.direction else self._translation.direction).translator
        style = frame.style if frame and frame.style else self.session.style
        trouble = {"opening": f"waiting for {capture.name}", "lost": f"{capture.name} was lost: waiting for it"}
        several = capture.name if len(self._cameras) > 1 else None
        loading = [] if self._wanted_domain == direction.target else [f"loading > {self._wanted_domain} ..."]
        if style.first != self.session.style.first and self.session.style.share == 0 and not loading:
            loading = [f"{'next' if self.session.paused else 'loading'}: {self.session.style.first.name}"]
        return Status(
            source=direction.source,
            target=direction.target,
            backend=direction.backend_name,
            style=style.label,
            now=self.statistics.now(),
            dropped=sum(camera.latest.dropped for _, camera in self._cameras),
            shown=self.statistics.frames,
            size=None if frame is None else _translated_at(frame),
            recording=self._recordings.seconds(frame),
            paused=self.session.paused,
            camera=trouble.get(capture.status, several),
            notices=(*loading, *self.session.notices),
        )

    def _close(self, stop: StopRequest) -> None:
        """Close everything, recordings first, as they matter most."""
        for _, capture in self._cameras:
            capture.wanted = False
        with stop.interruptible(), contextlib.suppress(KeyboardInterrupt):
            self._recordings.wait()
            self._snapshots.close()
        for _, capture in self._cameras:
            capture.stop()
        for _, capture in self._cameras:
            capture.close()
        if self._translation.close():
            self._directions.close()
        if self._virtual_camera is not None:
            self._virtual_camera.close()
        self._window.close()

    def _report(self, stopped_by: StoppedBy, error: Exception | None) -> LiveReport:
        frame, first = self._screen.frame, self.statistics.first_shown
        return LiveReport(
            translator=self._translation.direction.translator,
            cameras=self._cameras,
            statistics=self.statistics,
            translated=self._translation.count,
            window=not isinstance(self._window, NoWindow),
            stopped_by=stopped_by,
            error=error,
            recordings=self._recordings.as_list(),
            snapshots=[str(path) for path in self._snapshots.paths],
            first_shown_seconds=None if first is None else first - self._began,
            style=self.session.style.label,
            size=None if frame is None else (frame.result_rgb.shape[1], frame.result_rgb.shape[0]),
            translated_at=None if frame is None else _translated_at(frame),
        )


def _translated_at(frame: LiveFrame) -> tuple[int, int]:
    return frame.translated_at or (frame.result_rgb.shape[1], frame.result_rgb.shape[0])
