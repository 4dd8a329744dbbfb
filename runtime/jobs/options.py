"""What can be asked for when a video is translated, beside the translation."""

from dataclasses import dataclass
from fractions import Fraction

from dsmap.errors import InputError
from dsmap.runtime.video.encoders import EncoderSettings

AUDIO_CHOICES = ("copy", "convert", "none")


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """What is done to a video, beside its translation."""

    height: int | None = None
    """Translate at that many lines, the aspect kept."""
    upscale: bool = True
    """Bring the result back to the input's size; False leaves it at `height`."""
    side_by_side: bool = False
    """Input left, result right."""
    start: float | Fraction | None = None
    """Seconds: from the first frame at or after it."""
    end: float | Fraction | None = None
    """Seconds: up to the last frame before it."""
    frames: int | None = None
    """At most so many."""
    programme: int | None = None
    """The number of one, of a transport stream that has several; None: the first with a picture."""
    deinterlace: bool = False
    """Make whole frames of two fields, see `Deinterlacer`."""
    rate: Fraction | float | None = None
    """Frames a second, of an image sequence; 25 without it."""
    codec: str = "auto"
    """See `encoders`."""
    crf: int | None = None
    preset: str | None = None
    audio: str = "copy"
    """Of the sound: "copy" it as it is, "convert" it to AAC (in WebM Opus), "none"."""
    overwrite: bool = False
    """Replace an output that exists."""
    strip_metadata: bool = False
    """Leave out what tells about the recording: title, place, dates, device, and data streams (GPS tracks)."""
    resume: bool = False
    """Go on where an interrupted job for the same output was, if there was one."""

    def __post_init__(self) -> None:
        if self.audio not in AUDIO_CHOICES:
            raise InputError(f"--audio {self.audio} is not known", f"choose one of {', '.join(AUDIO_CHOICES)}")

    @property
    def encoding(self) -> EncoderSettings:
        """The part that the writer gets."""
        return EncoderSettings(codec=self.codec, crf=self.crf, preset=self.preset)
