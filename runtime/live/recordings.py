"""What a live session leaves on disk when a key asks for it: recordings and snapshots, neither ever over another."""

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
    """At most one recording at a time, any number after each other.

    The first has the name `path` when that was given; the others are numbered after it, or named by the time.
    """

    def __init__(self, path: Path | None, notify: Notify, *, overwrite: bool) -> None:
        self._path = path
        self._overwrite = overwrite
        self._notify = notify
        self._all: list[Recorder] = []
        self._untold: list[Recorder] = []
        self._current: Recorder | None = None

    @property
    def on(self) -> bool:
        """Whether one is being recorded."""
        return self._current is not None

    def start(self, rate: float) -> None:
        """Begin one, of about `rate` frames per second."""
        overwrite = self._overwrite and not self._all
        path = self._path or Path.cwd() / name_by_time(".mp4")
        taken = [recorder.path for recorder in self._all]
        if not overwrite:
            path = unused(path, taken)
        self._current = Recorder(path, rate=rate, overwrite=overwrite)
        self._all.append(self._current)
        self._untold.append(self._current)

    def stop(self) -> None:
        """Let the present one be finished in the background."""
        if self._current is not None:
            self._current.finish()
            self._current = None

    def put(self, frame: LiveFrame) -> None:
        """Record the frame's result, when that is on."""
        if self._current is not None:
            self._current.put(frame.result_rgb, frame.captured)

    def seconds(self, frame: LiveFrame | None) -> float | None:
        """How much of it there is, up to `frame`; None when nothing is being recorded."""
        if self._current is None:
            return None
        if frame is None or self._current.begun is None:
            return 0.0
        return max(0.0, frame.captured - self._current.begun)

    def look(self) -> None:
        """Tell of those that are finished, or have failed."""
        for recorder in [recorder for recorder in self._untold if recorder.done]:
            self._untold.remove(recorder)
            if recorder is self._current:
                self._current = None
            if recorder.error is not None:
                self._notify(f"the recording failed: {_fact(recorder.error)}")
            elif recorder.frames:
                lost = f", {recorder.dropped} left out as the encoder was too slow" if recorder.dropped else ""
                self._notify(f"recorded {recorder.path}: {recorder.frames} frames{lost}")

    def wait(self) -> None:
        """Until all are finished."""
        self.stop()
        for recorder in self._all:
            recorder.wait()
        self.look()

    @property
    def error(self) -> Exception | None:
        """What was wrong with the first that failed."""
        return next((recorder.error for recorder in self._all if recorder.error is not None), None)

    def as_list(self) -> list[dict[str, object]]:
        """For the report."""
        return [recorder.as_dict() for recorder in self._all]


class SnapshotWriter:
    """PNG files of a result and its input in the working folder, named by the time; written in the background."""

    def __init__(self, notify: Notify) -> None:
        self.paths: list[Path] = []
        self._notify = notify
        self._writer = ThreadPoolExecutor(1, "snapshot")

    def take(self, frame: LiveFrame) -> None:
        """Keep this frame."""
        self._writer.submit(self._write, frame)

    def close(self) -> None:
        """Until all are written."""
        self._writer.shutdown()

    def _write(self, frame: LiveFrame) -> None:
        plain = Path.cwd() / name_by_time(".png")
        free = (path for path in numbered(plain) if not path.exists() and not _input_of(path).exists())
        try:
            result = next(path for path in free if _write_new(path, frame.result_rgb))
            if not _write_new(_input_of(result), frame.input_rgb):
                raise DsmapError(f"{_input_of(result)} was made meanwhile", "take another")
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
