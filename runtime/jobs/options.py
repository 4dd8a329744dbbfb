"""Options of a translation, as a user gives them."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from dsmap.errors import InputError
from dsmap.runtime.bundle.bundled import DEFAULT_MODEL
from dsmap.runtime.refine.choice import check_refine, is_refined, size_inside
from dsmap.runtime.video.encoders import EncoderSettings, codec_named
from dsmap.runtime.video.hardware import OFF, check_hwaccel
from dsmap.runtime.video.scaling import size_at_height

AUDIO_CHOICES = ("copy", "convert", "none")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model translates, to which domain, and what runs it."""

    domain: str | None = None
    """The domain to translate to; None: the only one that the model translates to."""
    model: str | Path = DEFAULT_MODEL
    """The name of a model, `hf:owner/name[@revision]`, or the folder of a bundle."""
    backend: str = "auto"
    precision: str = "auto"
    """fp32, fp16 or int8; auto: what suits the backend."""
    cuda_binding: str = "auto"
    """cuda-python, pycuda or auto."""
    streams: int | None = None
    """Compute streams of the GPU, for the backends that have several; None: their default."""
    trust_engines: bool = False
    """Run the bundle's TensorRT engines although they were not built here. Engines are code."""
    strength: float = 1.0
    """1: the translation; 0: the input as the model reconstructs it."""
    stabilize: bool = False
    """Reduce the flicker of videos, by the motion in the input."""
    tile: bool = False
    """Translate each frame in stripes, on the CPU: little memory, for large frames, and slower."""
    remote: str | None = None
    """The address of a Triton server that translates, `model` being the name of one there; None: this machine does."""

    def __post_init__(self) -> None:
        if self.remote is not None:
            check_remote(self)


def check_remote(options: ModelOptions) -> None:
    """Raises InputError that names an option which has no effect when a server translates."""
    usual = {"backend": ("auto", "triton"), "precision": ("auto",), "cuda_binding": ("auto",), "streams": (None,)}
    for name, values in {**usual, "trust_engines": (False,), "tile": (False,)}.items():
        if getattr(options, name) not in values:
            raise InputError(
                f"--{name.replace('_', '-')} is for a model that runs here, and with --remote the server runs it",
                "Leave it out; what the server uses is set in its model repository.",
            )


@dataclass(frozen=True, kw_only=True)
class StyleOptions:
    """The style: one (`style` or `seed`), or one that changes over time; the domain's mean if all are None."""

    style: str | int | Path | None = None
    """The name of a style of the model, a seed, or an image."""
    seed: int | None = None
    """Of a random style."""
    spread: float = 1.0
    """Distance of random styles from the mean, in their usual one, see `random_code`."""
    style_from: str | None = None
    """From this style to `style_to` in the course of each video."""
    style_to: str | None = None
    style_cycle: tuple[str, ...] = ()
    """Through these styles in turn; a text may hold several, separated by commas."""
    style_period: float | None = None
    """Seconds that one round of `style_cycle` takes; None: 10."""

    @property
    def changes_over_time(self) -> bool:
        """Whether an option for that was passed."""
        ends = self.style_from is not None or self.style_to is not None
        return ends or bool(self.style_cycle) or self.style_period is not None


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """What is done to a video or an image besides its translation."""

    height: int | None = None
    """Translate at this many lines, keeping the aspect ratio; None: see `size_inside`."""
    upscale: bool = True
    """Resize the result to the input's size; False leaves it at `height`."""
    refine: str = "auto"
    """How it is resized: "guided" along edges, "learnt" by the model's refiner, "off" plainly, or "auto". Without a
    height "off" translates at full size, and "auto" what has up to 540 lines."""
    side_by_side: bool = False
    """Input left, result right."""
    start: float | Fraction | None = None
    """Seconds: from the first frame at or after it."""
    end: float | Fraction | None = None
    """Seconds: up to the last frame before it."""
    frames: int | None = None
    """At most this many frames."""
    programme: int | None = None
    """The number of a programme of a transport stream that has several; None: the first one with video."""
    deinterlace: bool = False
    """Make whole frames of two fields, see `Deinterlacer`."""
    rate: Fraction | float | None = None
    """Frames per second of an image sequence; None: 25."""
    codec: str = "auto"
    """See `encoders`."""
    crf: int | None = None
    """Quality: lower is better, and larger. None: the codec's default."""
    preset: str | None = None
    """Speed against size, in the codec's own words. None: the codec's default."""
    audio: str = "copy"
    """Audio: "copy" it as it is, "convert" it to AAC (in WebM Opus), or "none"."""
    hwaccel: str = OFF
    """What decodes videos: "off" is software, "auto" a device if one can, else a device; see `hardware`."""
    overwrite: bool = False
    """Replace an output that exists."""
    strip_metadata: bool = False
    """Leave out what says something about the recording: Exif, title, place, dates, device, data streams (GPS)."""
    resume: bool = False
    """Continue an interrupted job for the same output, if there was one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "codec", codec_named(self.codec))
        check_hwaccel(self.hwaccel)
        check_refine(self.refine)
        if self.audio not in AUDIO_CHOICES:
            raise InputError(f"--audio {self.audio} is not known", f"choose one of {', '.join(AUDIO_CHOICES)}")

    def refines(self, width: int, height: int) -> bool:
        """Whether the result for an image of such a size is refined by the image's edges."""
        return self.upscale and is_refined(self.refine, self.size_inside(width, height), (width, height))

    def size_inside(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) that a frame or an image of such a size is translated at."""
        return size_inside(width, height, self.height, self.refine if self.upscale else "off")

    def size_of_result(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of what becomes of a frame or an image of such a size, before it is encoded."""
        if not self.upscale:
            width, height = size_at_height(width, height, self.height)
        return width * (2 if self.side_by_side else 1), height

    @property
    def encoding(self) -> EncoderSettings:
        """The part that the writer gets."""
        return EncoderSettings(codec=self.codec, crf=self.crf, preset=self.preset)
