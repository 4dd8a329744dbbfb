"""Interface of everything that translates frames, and the base class of its wrappers.

    translator = Translator.load("summer-winter", domain="winter")
    translator = StylePathTranslator(StrengthTranslator(translator, 0.6), StyleFade(start, end))
    translator = StabilizedTranslator(translator, Stabilizer())
    translator = as_frame_translator(lambda frame_rgb: 255 - frame_rgb)

Jobs take any `FrameTranslator`. A wrapper wraps one and is one, so wrappers compose.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np

from dsmap.errors import InputError
from dsmap.runtime.backends.base import Codes, Frames, Pending, PendingOnDevice
from dsmap.runtime.backends.device_frame import DeviceFrame


class ClipTime(NamedTuple):
    """Where a frame lies in its clip."""

    seconds: float = 0.0
    """Since the first frame."""
    share: float | None = None
    """0 at the first frame, 1 at the last; None when the length of the clip is not known."""


FIRST_FRAME = ClipTime()
Refine = Callable[[Frames, Frames, Frames], Frames]
"""(frame, smaller frame, translation of that one) -> the translation at the frame's size; all uint8 RGB (H, W, 3)."""


@runtime_checkable
class FrameTranslator(Protocol):
    """Translates the frames of one clip after another, uint8 RGB of any size, from one thread at a time.

    Subclasses must define `submit`; everything else has a default.
    """

    in_flight: int = 1
    """How many frames may be under way at once: submitted, but not yet waited for."""
    keeps_frames: bool = False
    """Whether it may still use an input after its result was waited for, so that its memory cannot be used again."""

    def takes_device_frames(self, width: int | None = None, height: int | None = None) -> bool:
        """Whether `submit_device` takes frames of that size, or of some, where a decoder left them on the GPU."""
        return False

    def submit_device(self, frame: DeviceFrame, at: ClipTime = FIRST_FRAME, *, keep: bool = False) -> PendingOnDevice:
        """As `submit`, for a frame (H, W, 3) in the memory of a device; `finish` is not called for it.

        `keep`: the result stays there too, as a `DeviceResult`, where the translator can.
        """
        return self.submit(frame.to_rgb(), at=at)

    @abstractmethod
    def submit(self, frames_rgb: Frames, style: Codes | None = None, at: ClipTime = FIRST_FRAME) -> Pending:
        """Starts a translation and returns a function that waits for its result, of the input's shape and dtype.

        One frame (H, W, 3), or a batch (N, H, W, 3) where the translator takes batches. The input may not be changed
        before the wait is over. `style`: a code (S,) for these frames only. `at`: when they are shown.
        """

    def finish(self, input_rgb: Frames, output_rgb: Frames) -> Frames:
        """Postprocesses a result; called once per frame, in order, with the frame's input. Both are (H, W, 3)."""
        return output_rgb

    def __call__(self, frames_rgb: Frames) -> Frames:
        """Translates one frame (H, W, 3), or a batch (N, H, W, 3) as for `submit`, and waits for it."""
        return self.finish(frames_rgb, self.submit(frames_rgb)())

    @property
    def finishes(self) -> bool:
        """Whether `finish` does anything."""
        return type(self).finish is not FrameTranslator.finish

    def learnt_refiner(self) -> Refine | None:
        """What brings its results to a larger size, as it has learnt to: None where it has not. Kept once loaded."""
        return None

    def has_learnt_refiner(self) -> bool:
        """Whether there is a `learnt_refiner`, without loading it."""
        return self.learnt_refiner() is not None

    def start_clip(self, first_rgb: Frames | None = None) -> None:
        """Starts another clip: state of the frames so far is dropped.

        `first_rgb`: the clip's first frame (H, W, 3), when the work begins at a later one.
        """
        return

    def check_size(self, height: int, width: int, batch: int = 1) -> None:
        """Raises InputError when frames of that size need more memory than is available."""
        return

    def cancel(self) -> None:
        """Cancels what is under way, from any thread: waiting for it raises DsmapError."""
        return

    def close(self) -> None:
        """Frees what it holds, such as GPU memory. It cannot be used afterwards."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class TranslatorWrapper(FrameTranslator):
    """Passes everything on to the translator that it wraps; subclasses override what they change.

    It owns what it wraps: closing it closes both.
    """

    def __init__(self, inner: FrameTranslator) -> None:
        self.inner = inner
        self.in_flight, self.keeps_frames = inner.in_flight, inner.keeps_frames

    def submit(self, frames_rgb: Frames, style: Codes | None = None, at: ClipTime = FIRST_FRAME) -> Pending:
        """As `FrameTranslator.submit`."""
        return self.inner.submit(frames_rgb, style, at)

    def finish(self, input_rgb: Frames, output_rgb: Frames) -> Frames:
        """As `FrameTranslator.finish`."""
        return self.inner.finish(input_rgb, output_rgb)

    @property
    def finishes(self) -> bool:
        """As `FrameTranslator.finishes`."""
        return type(self).finish is not TranslatorWrapper.finish or self.inner.finishes

    def learnt_refiner(self) -> Refine | None:
        """As `FrameTranslator.learnt_refiner`."""
        return self.inner.learnt_refiner()

    def has_learnt_refiner(self) -> bool:
        """As `FrameTranslator.has_learnt_refiner`."""
        return self.inner.has_learnt_refiner()

    def start_clip(self, first_rgb: Frames | None = None) -> None:
        """As `FrameTranslator.start_clip`."""
        self.inner.start_clip(first_rgb)

    def check_size(self, height: int, width: int, batch: int = 1) -> None:
        """As `FrameTranslator.check_size`."""
        self.inner.check_size(height, width, batch)

    def cancel(self) -> None:
        """As `FrameTranslator.cancel`."""
        self.inner.cancel()

    def close(self) -> None:
        """As `FrameTranslator.close`."""
        self.inner.close()


class FunctionTranslator(FrameTranslator):
    """Adapter for a function from frame to frame, uint8 RGB (H, W, 3) of the same size. It ignores styles."""

    keeps_frames = True

    def __init__(self, function: Callable[[Frames], Frames]) -> None:
        self._function = function

    def submit(self, frames_rgb: Frames, style: Codes | None = None, at: ClipTime = FIRST_FRAME) -> Pending:
        """As `FrameTranslator.submit`; the function is called here, `style` and `at` are ignored."""
        result = self._function(frames_rgb)
        return lambda: result


def as_frame_translator(translate: FrameTranslator | Callable[[Frames], Frames]) -> FrameTranslator:
    """Returns `translate` if it is a FrameTranslator, else an adapter for the function that it is.

    Raises InputError if it is neither.
    """
    if isinstance(translate, FrameTranslator):
        return translate
    if not callable(translate):
        raise InputError(
            f"{type(translate).__name__} is neither a FrameTranslator nor a function",
            "Pass a Translator, a subclass of FrameTranslator, or a function from frame to frame.",
        )
    return FunctionTranslator(translate)


def check_frames(frames_rgb: Frames, dims: tuple[int, ...]) -> None:
    """Raises InputError unless `frames_rgb` is a non-empty uint8 RGB array with one of `dims` dimensions."""
    array = np.asarray(frames_rgb)
    if array.dtype != np.uint8 or array.ndim not in dims or array.shape[-1] != 3 or 0 in array.shape:
        wanted = " or ".join({3: "(H, W, 3)", 4: "(N, H, W, 3)"}[n] for n in dims)
        raise InputError(f"got {array.dtype} {array.shape}, expected uint8 {wanted}", _advice(array))


def _advice(array: Any) -> str:
    """How to make frames of `array`; floats are named with their range."""
    if array.dtype.kind == "f" and array.size:
        low, high = float(array.min()), float(array.max())
        factor = "(x * 255)" if low >= 0 and high <= 1 else "((x + 1) * 127.5)" if low >= -1 and high <= 1 else "x"
        return f"The values are {low:.3g} to {high:.3g}: pass {factor}.round().astype(numpy.uint8), RGB."
    if 0 in array.shape:
        return "Pass RGB frames, not empty."
    if array.ndim == 2 and array.dtype == np.uint8:
        return "It looks grey: pass RGB, such as numpy.stack([grey] * 3, axis=-1)."
    return "Pass RGB frames."
