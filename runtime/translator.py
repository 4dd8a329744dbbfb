"""Translation of frames to a domain of a model, on any backend."""

import os
from pathlib import Path

import cv2
import numpy as np

from dsmap.common.memory import available_bytes
from dsmap.errors import InputError
from dsmap.runtime.backends.base import DEFAULT_SETTINGS, BackendSettings, Codes, Frames, Pending, PendingOnDevice
from dsmap.runtime.backends.concurrency import threads_each
from dsmap.runtime.backends.device_frame import DeviceFrame
from dsmap.runtime.backends.device_result import DeviceResult
from dsmap.runtime.backends.registry import load_backend
from dsmap.runtime.bundle.bundle import Bundle, Sizes
from dsmap.runtime.bundle.bundled import DEFAULT_MODEL
from dsmap.runtime.frame_translator import FIRST_FRAME, ClipTime, FrameTranslator, Refine, check_frames
from dsmap.runtime.open_model import open_model
from dsmap.runtime.refine.learnt import has_refiner, open_refiner
from dsmap.runtime.styles.resolver import StyleLike, StyleResolver
from dsmap.runtime.system.cpu import allowed_cores
from dsmap.runtime.system.memory import check_memory, frames_that_fit, memory_width, translation_bytes

_MAX_FRAMES_AT_ONCE = 4  # on the host
_ANY_NUMBER = 64  # more than any backend on a GPU takes


class Translator(FrameTranslator):
    """Translates frames to one domain of a model.

        with Translator.load("summer-winter", domain="winter") as translator:
            winter_rgb = translator(summer_rgb)

    Use it from one thread at a time. The style may be changed between frames.
    """

    may_tile = False
    """Whether its errors may advise --tile: set by commands that have it."""
    uses_refiner = True
    """False keeps it from using the model's refiner."""

    @classmethod
    def load(
        cls,
        model: str | Path | Bundle = DEFAULT_MODEL,
        *,
        domain: str | None = None,
        backend: str = "auto",
        style: StyleLike = None,
        threads: int | None = None,
        precision: str = "auto",
        frames_at_once: int = 1,
        for_frames: tuple[int, int] | None = None,
        cuda_binding: str = "auto",
        streams: int | None = None,
        trust_engines: bool = False,
        style_spread: float = 1.0,
        remote: str | None = None,
        tile: bool = False,
    ) -> "Translator":
        """Loads a model for translations to `domain`; None: to the only domain that it translates to.

        `model`: a name such as "summer-winter", "hf:owner/name[@revision]" (a model of the Hugging Face Hub, pulled
        into the user's cache the first time), the path of a bundle, or an opened `Bundle`.
        `backend`: "auto" or the name of a backend. `style`: see `StyleLike`.
        `threads`: CPU threads; None uses all cores.
        `precision`: one that the bundle has, or "auto" for the one that suits the backend.
        `frames_at_once`: how many frames will be under way together (see `submit`); 1 has the lowest latency.
        `for_frames`: (width, height) of the frames of a video; replaces `frames_at_once` by as many as are faster
        together: on a GPU as the backend chooses, on the host one per core as far as they fit into memory.
        `cuda_binding`: "cuda-python", "pycuda" or "auto".
        `streams`: compute streams of the GPU, for the backends that have several; None for their default.
        `trust_engines`: load the bundle's TensorRT engines even if they were not built here; engines are code.
        `style_spread`: distance of random styles from the mean, in their usual one: see `random_code`.
        `remote`: the address of a Triton server that translates, such as grpc://HOST:8001; `model` is the name of one
        there.
        `tile`: translate each frame in stripes: little memory, for large frames, and slower; on the CPU.

        Raises InputError for an unknown model, domain, backend, style or precision, DsmapError when the backend does
        not run.
        """
        bundle = model if isinstance(model, Bundle) else open_model(model, remote)
        on_host = None
        if for_frames is not None:
            frames_at_once, on_host = _ANY_NUMBER, _as_many_as_fit(bundle, *for_frames)
        settings = BackendSettings(
            threads=threads,
            precision=precision,
            frames_at_once=frames_at_once,
            at_once_on_host=on_host,
            cuda_binding=cuda_binding,
            streams=streams,
            trust_engines=trust_engines,
            tile=tile,
        )
        return cls(bundle, domain, backend, style, settings, style_spread)

    def __init__(
        self,
        bundle: Bundle,
        domain: str | None,
        backend: str = "auto",
        style: StyleLike = None,
        settings: BackendSettings = DEFAULT_SETTINGS,
        style_spread: float = 1.0,
    ) -> None:
        bundle.check_files()
        self.bundle = bundle
        self.model_name = bundle.manifest.name
        self.target = domain = bundle.manifest.domain_named(domain)
        usual = bundle.source_of(domain)
        self.source = settings.source or usual
        if self.source != usual:  # raises for a domain that the model does not have
            bundle.source_of(self.source)
            bundle.manifest.need_styles("a reconstruction")
        self.style_resolver = StyleResolver(bundle.manifest, domain, style_spread)
        if settings.threads is not None and settings.threads < 1:
            raise InputError(f"threads is {settings.threads}", "Use 1 or more, or None for all cores.")
        if settings.frames_at_once < 1:
            raise InputError(f"frames_at_once is {settings.frames_at_once}", "Use 1 or more.")
        choice = load_backend(backend, bundle, domain, settings)
        self._backend = choice.backend
        self.settings = settings
        self.backend_name = choice.backend.name
        self.backend_description = choice.backend.description
        self.backend_reason = choice.reason
        self.backend_title = f"{choice.title} ({choice.brief})" if choice.brief else choice.title
        self.precision = choice.backend.precision
        self.in_flight, self.concurrency = choice.backend.in_flight, choice.backend.concurrency
        self._last_size = (0, 0, 0)
        self._held_bytes = 0
        self._refiner: Refine | None = None
        self.set_style(style)
        bundle.release()

    @property
    def domains(self) -> tuple[str, str]:
        """The two domains of the model."""
        return self.bundle.manifest.domains

    @property
    def styles(self) -> tuple[str, ...]:
        """The names of the model's styles for the target domain."""
        return tuple(self.style_resolver.named)

    def set_style(self, style: StyleLike) -> None:
        """Sets the style of the frames from now on. Raises InputError as `find_style`; the style then stays."""
        self.style = self.find_style(style)

    def find_style(self, style: StyleLike) -> Codes:
        """The style code (S,), float32, of `style`.

        Raises InputError for a name that the model does not have, and for an image that is missing or unreadable.
        """
        return self.style_resolver.resolve(style).encode(self._backend.encode_style)

    def __call__(self, frames_rgb: Frames) -> Frames:
        """Translates one frame (H, W, 3) or a batch (N, H, W, 3), uint8 RGB of any size; the shape stays."""
        return self.submit(frames_rgb)()

    def submit(self, frames_rgb: Frames, style: Codes | None = None, at: ClipTime = FIRST_FRAME) -> Pending:
        """Starts a translation and returns a function that waits for its result, that of calling the translator.

        At most `in_flight` may be under way. The frames may not be changed before the wait is over. `style`: a code
        (S,) for these frames only, see `find_style`. `at` is ignored.
        """
        check_frames(frames_rgb, dims=(3, 4))
        single = frames_rgb.ndim == 3
        frames_nhwc = frames_rgb[None] if single else frames_rgb
        batch, height, width = frames_nhwc.shape[:3]
        if (batch, height, width) != self._last_size:
            self.check_size(height, width, batch)
        padded = pad_frames(frames_nhwc, self.bundle.manifest.sizes)
        code = self.style if style is None else style
        pending = self._backend.submit(padded, np.ascontiguousarray(np.broadcast_to(code, (batch, code.size))))
        self._last_size = batch, height, width

        def wait() -> Frames:
            out = pending()[:, :height, :width]
            # The backend keeps the memory of its largest batch and uses it again.
            self._held_bytes = max(self._held_bytes, self._bytes_for(*padded.shape[:3]))
            return out[0] if single else out

        return wait

    def takes_device_frames(self, width: int | None = None, height: int | None = None) -> bool:
        """As `FrameTranslator.takes_device_frames`."""
        if width is None or height is None:
            return self._backend.takes_device_frames
        sizes = self.bundle.manifest.sizes
        fits = min(width, height) >= sizes.minimum and width % sizes.multiple_of == height % sizes.multiple_of == 0
        return self._backend.takes_device_frames and fits and width % 2 == height % 2 == 0

    def submit_device(self, frame: DeviceFrame, at: ClipTime = FIRST_FRAME, *, keep: bool = False) -> PendingOnDevice:
        """As `FrameTranslator.submit_device`."""
        pending = self._backend.submit_device(frame, np.ascontiguousarray(self.style[None]), keep=keep)

        def wait() -> Frames | DeviceResult:
            result = pending()
            return result if isinstance(result, DeviceResult) else result[0]

        return wait

    def learnt_refiner(self) -> Refine | None:
        """As `FrameTranslator.learnt_refiner`: that of the bundle, if it has one for this direction."""
        if not self.uses_refiner:
            return None
        if self._refiner is None and self.source != self.target:
            # As many threads as each frame in flight has: more would wait for cores that translate (4 % of the time).
            cores = self.settings.threads or allowed_cores() or os.cpu_count() or 1
            self._refiner = open_refiner(self.bundle, self.target, threads_each(cores, self.concurrency))
        return self._refiner

    def has_learnt_refiner(self) -> bool:
        """As `FrameTranslator.has_learnt_refiner`."""
        return self.uses_refiner and self.source != self.target and has_refiner(self.bundle, self.target)

    def cancel(self) -> None:
        """Cancels what is under way, from any thread: waiting for it raises DsmapError."""
        self._backend.cancel()

    def close(self) -> None:
        """Frees what the backend holds, such as GPU memory. The translator cannot be used afterwards."""
        self._backend.close()

    def check_size(self, height: int, width: int, batch: int = 1) -> None:
        """Raises InputError, with a height that fits, when frames of that size need more memory than is available."""
        available = available_bytes()
        if available is None or not self._backend.on_host:
            return
        sizes = self.bundle.manifest.sizes
        check_memory(
            height,
            width,
            batch=batch * self._backend.concurrency,
            bytes_of=lambda lines, columns: self._bytes_for(batch, lines, columns),
            multiple_of=sizes.multiple_of,
            minimum=sizes.minimum,
            available=available + self._held_bytes,
            may_tile=self.may_tile,
        )

    @property
    def _dim(self) -> int:
        return memory_width(self.bundle.manifest.architecture)

    def _bytes_for(self, batch: int, height: int, width: int) -> int:
        of_frame = self._backend.bytes_for(height, width)  # one frame after the other, where it says
        if of_frame is not None:
            return of_frame
        return translation_bytes(height, width, batch=batch * self._backend.concurrency, dim=self._dim)


def _as_many_as_fit(bundle: Bundle, width: int, height: int) -> int:
    """Frames at once on the host for a video: one per core, up to the number that backends gain from."""
    cores = allowed_cores() or os.cpu_count() or 1
    available = available_bytes()
    if available is not None:
        available -= sum(file.bytes for file in bundle.manifest.components.files())  # its weights are not loaded yet
    return frames_that_fit(
        height,
        width,
        dim=memory_width(bundle.manifest.architecture),
        available=available,
        most=min(cores, _MAX_FRAMES_AT_ONCE),
    )


def padded_size(height: int, width: int, sizes: Sizes) -> tuple[int, int]:
    """Height and width of a frame after `pad_frames`."""
    full_height, full_width = (-(-side // sizes.multiple_of) * sizes.multiple_of for side in (height, width))
    return max(sizes.minimum, full_height), max(sizes.minimum, full_width)


def pad_frames(frames_rgb: Frames, sizes: Sizes) -> Frames:
    """Pads frames (N, H, W, 3) at the right and the bottom to a size that the graphs take; C-contiguous.

    By reflection; where that needs more rows or columns than there are, the last one is repeated.
    """
    height, width = frames_rgb.shape[1:3]
    full_height, full_width = padded_size(height, width, sizes)
    bottom, right = full_height - height, full_width - width
    if not bottom and not right:
        return np.ascontiguousarray(frames_rgb)
    border = cv2.BORDER_REFLECT_101 if bottom < height and right < width else cv2.BORDER_REPLICATE
    return np.stack([cv2.copyMakeBorder(np.ascontiguousarray(f), 0, bottom, 0, right, border) for f in frames_rgb])
