"""Writing a video: frames in the requested codec, other streams copied, timestamps kept."""

import contextlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import av
import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame

from dsmap.common.atomic import sync_file
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.backends.device_result import DeviceResult
from dsmap.runtime.jobs.packet_journal import PacketJournal
from dsmap.runtime.system.scheduling import usual_priority
from dsmap.runtime.video.containers import FORMATS, check_container, codec_name, format_of, open_output
from dsmap.runtime.video.copy_plan import plan_copies
from dsmap.runtime.video.encoder_table import Encoder
from dsmap.runtime.video.encoders import EncoderSettings, opening_reason, resolve, silence
from dsmap.runtime.video.held_packets import HeldPackets, packet_start
from dsmap.runtime.video.media import open_file
from dsmap.runtime.video.metadata import container_metadata, describe
from dsmap.runtime.video.pipes import suffix_of
from dsmap.runtime.video.rgb_to_frame import YUV_FORMAT
from dsmap.runtime.video.stream_copy import StreamCopier
from dsmap.runtime.video.track import VideoTrack, encoder_time_base
from dsmap.runtime.video.windows_sound import name_tracks
from dsmap.runtime.video.write_errors import is_full_disk, write_error

if TYPE_CHECKING:
    from av.container.core import Chapter

__all__ = ["FORMATS", "VideoWriter", "check_container"]

_ADVICE = "check the folder and the disk; with an unusual frame size try --height 720"


class VideoWriter:
    """Encodes frames and copies other streams into `path`; the container follows its suffix (see `FORMATS`).

    `width`, `height`: of the frames; odd sides are padded by repeating one pixel where the codec needs it. `time_base`:
    unit of the frames' timestamps. `rate`: approximate frames per second, for rate control only. `encoding`: codec,
    quality and speed. `audio` and `copied`: streams whose packets will be copied, or with `sound` "convert" or "none"
    encoded again or left out, as `plan_copies` plans; copied audio must suit the container: see `check_container`.
    `chapters`: as from PyAV's `Container.chapters()`.
    `journal`: keeps the packets for a later run. `recoverable`: see `open_output`; not for an mp4 with other streams.
    `projection`: marks spherical video, see `plan_projection`. `on_device`: frames may come in the memory of the first
    GPU, if its own encoder was asked for: see `on_device` below. `timecode`: of the first frame (01:02:03:04).

    Raises InputError for invalid settings, DsmapError when the file cannot be written. Call `close()` to
    finish the file or `discard()` to remove it.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        width: int,
        height: int,
        time_base: Fraction,
        rate: Fraction,
        sample_aspect: Fraction = Fraction(1),
        encoding: EncoderSettings = EncoderSettings(),  # noqa: B008  # frozen
        audio: Sequence[AudioStream] = (),
        copied: Sequence[Stream] = (),
        sound: str = "copy",
        chapters: Sequence["Chapter"] = (),
        metadata: dict[str, str] | None = None,
        video_metadata: dict[str, str] | None = None,
        journal: PacketJournal | None = None,
        recoverable: bool = False,
        projection: bytes = b"",
        on_device: bool = False,
        timecode: str | None = None,
    ) -> None:
        silence()
        self.path = path = Path(path)
        self.frames = 0
        self.dropped_packets = 0
        """Packets of other streams that are missing from the file: refused by the muxer, or damaged."""
        suffix = suffix_of(path)
        self.encoder = self._chosen(encoding, suffix)
        self.on_device = on_device and self.encoder.device is not None and not projection
        """Whether `write` takes frames that are in the memory of the GPU too."""
        self._journal = journal
        self._time_base = time_base
        self._end = Fraction(0)  # seconds: where the video written so far ends
        self._held = HeldPackets()
        self._closed = False
        self._copies = False  # whether there are streams beside the video
        streams = {stream.index: stream for stream in (*audio, *copied)}
        plan = plan_copies(suffix, list(streams.values()), sound)
        with self._explained():
            self._container = self._opened(encoder_time_base(time_base), recoverable=recoverable, alone=not streams)
            try:
                self._track = VideoTrack(
                    self._container,
                    self.encoder,
                    width=width,
                    height=height,
                    time_base=time_base,
                    rate=rate,
                    sample_aspect=sample_aspect,
                    journal=journal,
                    projection=projection,
                    on_device=self.on_device,
                )
                self._copier = StreamCopier(self._container, plan, suffix)
                self._set_metadata(metadata or {}, video_metadata or {}, chapters, timecode)
                self._start(width, height)
                self._copies = bool(plan.written)
            except BaseException:
                self.discard()
                raise

    def _chosen(self, encoding: EncoderSettings, suffix: str) -> Encoder:
        return resolve(encoding, suffix)

    def _opened(self, time_base: Fraction, *, recoverable: bool, alone: bool) -> OutputContainer:
        """The new file; `alone`: for the video and no other stream."""
        # The fragments of an mp4 begin before all streams have sent something, which it needs to place them.
        recoverable = recoverable and (alone or format_of(self.path) in ("matroska", "webm"))
        return open_output(self.path, time_base, recoverable=recoverable)

    def _set_metadata(
        self, metadata: dict[str, str], of_video: dict[str, str], chapters: Sequence["Chapter"], timecode: str | None
    ) -> None:
        self._container.set_chapters(list(_valid_chapters(chapters)))
        self._container.metadata.update(container_metadata(metadata))
        self._container.metadata.pop("timecode", None)  # of the source's first frame, perhaps not ours
        describe(of_video, self._track.stream)
        if timecode is not None:  # mov and mp4 make a track of it
            self._track.stream.metadata["timecode"] = timecode

    def _start(self, width: int, height: int) -> None:
        """Write the header, so that errors show now."""
        context = self._track.stream.codec_context
        try:
            with usual_priority():
                context.open(strict=False)
        except (av.FFmpegError, ValueError) as error:
            size = context.width, context.height
            reason = opening_reason(self.encoder.library, self.encoder.pix_fmt, size)
            # With it, frames for the encoder are allocated in the GPU's memory.
            instead = "leave out --hwaccel, or " if self.on_device else ""
            raise InputError(
                f"{self.encoder.title} cannot encode frames of {width}x{height}: "
                f"{reason or getattr(error, 'strerror', None) or error}",
                f"{instead}choose another --height, or another --codec",
            ) from error
        self._container.start_encoding()
        if self._journal is not None:
            self._journal.check_encoder(self._track.facts())

    def prefill(self) -> int:
        """Begin with the frames that the journal holds from earlier runs; returns how many there are.

        Call it before the first frame. Do not write them again: continue with the frame after them, but pass all
        packets of the other streams to `copy` from the start.
        """
        if self._journal is not None and self._journal.frames:
            self._end = self._track.begin_after(self._journal)
            self.frames = self._journal.frames
        return self.frames

    def cut(self) -> None:
        """The next frame begins a new segment of the journal; earlier frames become resumable soon after."""
        self._track.cut()

    @property
    def takes_yuv(self) -> bool:
        """Whether `write` takes frames of `new_yuv_frame` too."""
        return self.encoder.pix_fmt == YUV_FORMAT

    def write(self, frame: npt.NDArray[np.uint8] | VideoFrame | DeviceResult, pts: int, duration: int = 0) -> None:
        """Encode one frame: uint8 (H, W, 3), shown from `pts` for `duration` (0: unknown) in `time_base`.

        Also what `takes_yuv` and `on_device` are about.
        """
        with self._explained():
            self._track.encode(frame, pts, duration)
            self.frames += 1
            self._end = (pts + max(duration, 1)) * self._time_base
            self._release()

    def copy(self, packet: Packet) -> None:
        """Copy a packet of another stream; those of streams that are left out are ignored.

        It is held until the video has caught up, so that all streams can end together.
        """
        if not self._copier.knows(packet):
            return
        self._held.add(packet)
        with self._explained():
            self._release()

    def close(self, *, drop_audio_after_video: bool = False, interrupted: bool = False) -> None:
        """Finish the file and flush it to disk. Raises DsmapError, and removes the file, if it could not be completed.

        Later calls do nothing.

        `drop_audio_after_video`: packets of other streams that begin after the last frame are left out.
        `interrupted`: the job is not done, so the journal keeps the encoder's last packets.
        """
        if self._closed:
            return
        self._closed = True
        try:
            with self._explained():
                for packet in self._held.drain(before=self._end if drop_audio_after_video else None):
                    self._mux(packet)
                self._mux_copies(None, self._copier.rest())
                self.dropped_packets += self._copier.failures
                self._track.flush(keep=interrupted)
                self._container.close()
                self._complete()
        except BaseException:
            self.discard()
            raise
        if self._journal is not None:
            self._journal.drop_part()

    def discard(self) -> None:
        """Remove the file. Finished segments stay in the journal."""
        self._closed = True
        with contextlib.suppress(av.FFmpegError, OSError, ValueError):
            self._container.close()
        self._remove()
        if self._journal is not None:
            self._journal.drop_part()

    def _remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def _complete(self) -> None:
        """What is left to do when the container is closed."""
        name_tracks(self.path, self._copier.windows_names)
        self._check()
        sync_file(self.path)

    def _release(self) -> None:
        for packet in self._held.due(self._end):
            self._mux(packet)

    def _mux(self, packet: Packet) -> None:
        self._track.mux_earlier(packet_start(packet))
        self._mux_copies(packet, self._copier.packets(packet))

    def _mux_copies(self, packet: Packet | None, copies: Iterable[Packet]) -> None:
        """Mux the packets made of `packet` (None: the last ones)."""
        for copy in copies:
            try:
                self._container.mux(copy)
            except av.error.InvalidDataError:  # damaged, as in a broken transport stream; the rest may not be
                self.dropped_packets += 1
            except av.FFmpegError as error:
                if is_full_disk(error):
                    raise
                raise self._refused(packet or copy, copy, error) from error

    def _refused(self, packet: Packet, copy: Packet, error: av.FFmpegError) -> DsmapError:
        stream = copy.stream
        return DsmapError(
            f"{self.path} cannot take a packet of {stream.type} stream {packet.stream.index} ({codec_name(stream)}) "
            f"at {float(packet_start(copy)):.3f} s: {error.strerror or error}",
            self._advice_on({stream.type}),
        )

    def _refused_some(self, error: av.FFmpegError) -> DsmapError:
        """libav refuses a packet late, once it has packets of all streams: it may belong to any copied one."""
        streams = [stream for stream in self._container.streams if stream.type != "video"]
        named = ", ".join(f"{stream.type} ({codec_name(stream)})" for stream in streams)
        return DsmapError(
            f"{self.path} cannot take a packet, probably of one of the copied streams: {named}: "
            f"{error.strerror or error}",
            self._advice_on({stream.type for stream in streams}),
        )

    def _advice_on(self, kinds: Collection[str]) -> str:
        advice = "write another container (-o NAME.mkv takes almost everything)"
        if "audio" in kinds:
            advice += ", or pass --audio convert, or --audio none to leave the sound out"
        return advice

    def _check(self) -> None:
        """Check the written file: a full disk can go unnoticed until the very end."""
        try:
            with open_file(self.path) as written:
                frames = written.streams.video[0].frames
        except InputError as error:
            raise DsmapError(
                f"{self.path} could not be completed: it cannot be read back",
                "free some disk space and try again",
            ) from error
        if frames not in (0, self.frames):  # matroska does not say (0)
            raise DsmapError(
                f"{self.path} has {frames} frames instead of {self.frames}",
                "free some disk space and try again",
            )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            if isinstance(error, av.error.ArgumentError) and self._copies:
                raise self._refused_some(error) from error
            raise write_error(self.path, error, frames=self.frames, advice=_ADVICE) from error


def _valid_chapters(chapters: Sequence["Chapter"]) -> Iterator["Chapter"]:
    """The valid ones: a chapter that ends before it begins would spoil the whole file."""
    for chapter in chapters:
        if chapter["time_base"] and 0 <= chapter["start"] <= chapter["end"]:
            yield chapter
