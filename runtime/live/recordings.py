"""Recordings and snapshots of a live session; none ever replaces another."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dsmap.common.atomic import finish_file
from dsmap.common.images import write_rgb
from dsmap.common.notify import Notify
from dsmap.common.output_files import numbered
from dsmap.common.part_files import part_file
from dsmap.errors import DsmapError
from dsmap.runtime.live.recorder import Recorder, name_by_time, unused
from dsmap.runtime.live.source import Pixels
from dsmap.runtime.live.translation import LiveFrame


class Recordings:
    """At most one recording at a time, any number in a row.

    The first is named `path` if given; later ones are numbered, or named by the time.
    """

    def __init__(self, path: Path | None, notify: Notify, *, overwrite: bool) -> None:
        self._path = path
        self._overwrite = overwrite
        self._notify = notify
        self._all: list[Recorder] = []
        self._unreported: list[Recorder] = []
        self._current: Recorder | None = None

    @property
    def on(self) -> bool:
        """Whether a recording is in progress."""
        return self._current is not None

    def start(self, rate: float) -> None:
        """Start one of about `rate` frames per second."""
        overwrite = self._overwrite and not self._all
        path = self._path or Path.cwd() / name_by_time(".mp4")
        taken = [recorder.path for recorder in self._all]
        if not overwrite:
            path = unused(path, taken)
        self._current = Recorder(path, rate=rate, overwrite=overwrite)
        self._all.append(self._current)
        self._unreported.append(self._current)

    def stop(self) -> None:
        """Finish the current one in the background."""
        if self._current is not None:
            self._current.finish()
            self._current = None

    def put(self, frame: LiveFrame) -> None:
        """Record the frame's result, if recording."""
        if self._current is not None:
            self._current.put(frame.result_rgb, frame.captured)

    def seconds(self, frame: LiveFrame | None) -> float | None:
        """Its length up to `frame`; None when not recording."""
        if self._current is None:
            return None
        if frame is None or self._current.begun is None:
            return 0.0
        return max(0.0, frame.captured - self._current.begun)

    def report_finished(self) -> None:
        """Report those that have finished or failed."""
        for recorder in [recorder for recorder in self._unreported if recorder.done]:
            self._unreported.remove(recorder)
            if recorder is self._current:
                self._current = None
            if recorder.error is not None:
                self._notify(f"the recording failed: {_fact(recorder.error)}")
            elif recorder.frames:
                lost = f", {recorder.dropped} left out because the encoder was too slow" if recorder.dropped else ""
                self._notify(f"recorded {recorder.path}: {recorder.frames} frames{lost}")

    def wait(self) -> None:
        """Wait until all are finished."""
        self.stop()
        for recorder in self._all:
            recorder.wait()
        self.report_finished()

    @property
    def error(self) -> Exception | None:
        """The error of the first that failed."""
        return next((recorder.error for recorder in self._all if recorder.error is not None), None)

    def as_list(self) -> list[dict[str, object]]:
        """For the report."""
        return [recorder.as_dict() for recorder in self._all]


class SnapshotWriter:
    """PNG files of a result and its input in the working folder, named by the time and written in the background."""

    def __init__(self, notify: Notify) -> None:
        self.paths: list[Path] = []
        self._notify = notify
        self._writer = ThreadPoolExecutor(1, "snapshot")

    def take(self, frame: LiveFrame) -> None:
        """Save this frame."""
        self._writer.submit(self._write, frame)

    def close(self) -> None:
        """Wait until all are written."""
        self._writer.shutdown()

    def _write(self, frame: LiveFrame) -> None:
        plain = Path.cwd() / name_by_time(".png")
        free = (path for path in numbered(plain) if not path.exists() and not _input_of(path).exists())
        try:
            result = next(path for path in free if _write_new(path, frame.result_rgb))
            if not _write_new(_input_of(result), frame.input_rgb):
                raise DsmapError(f"{_input_of(result)} was created meanwhile", "take another")
        except (DsmapError, OSError) as error:
            self._notify(f"no snapshot: {_fact(error)}")
            return
        self.paths += [result, _input_of(result)]
        self._notify(f"snapshot {result.name}")


def _write_new(path: Path, image_rgb: Pixels) -> bool:
    """Writes an image unless its name is taken; whether it did. Another session may take snapshots here too."""
    part = part_file(path)
    try:
        write_rgb(part, image_rgb)
        finish_file(part, path, replace=False)
    except FileExistsError:
        return False
    finally:
        part.unlink(missing_ok=True)
    return True


def _input_of(result: Path) -> Path:
    return result.with_stem(f"{result.stem}-input")


def _fact(error: Exception) -> str:
    return error.fact if isinstance(error, DsmapError) else f"{type(error).__name__}: {error}"
