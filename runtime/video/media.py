"""Opening media, within limits: every file and address that is read is opened here.

A file is read alone: no format that names other files, no protocol but `file`. An address may lead to other addresses,
never to local files, and has timeouts. No decoder makes frames beyond MAX_PIXELS.
"""

import functools
import itertools
import os
import re
import time
from pathlib import Path

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import av
import av.logging
from av.container import InputContainer

from dsmap.common.cpu import allowed_cores
from dsmap.errors import InputError
from dsmap.runtime.video.addresses import (
    WEB,
    NetworkSettings,
    advice_for,
    check_address,
    check_not_almost_address,
    scheme_of,
    shown,
)
from dsmap.runtime.video.multipart import MultipartImages, begins_part, is_multipart
from dsmap.runtime.video.pipes import INPUT_NAME, PipeInput
from dsmap.runtime.video.playlists import MAX_PLAYLIST_BYTES, check_playlist, is_playlist, nested_playlists, variants_of

MAX_PIXELS = 16384 * 8192
"""Of a frame: more would take gigabytes."""

_USUALLY_PROBED_BYTES = 5_000_000  # FFmpeg's own limit
_PROBED_BYTES, _PROBED_SECONDS = 256 << 20, 300  # where sound begins late; they are held in memory meanwhile
# These name further files and addresses to read. Device formats are harmless: no file is taken for one.
_PLAYLISTS = frozenset({"hls", "dash"})
_MULTIPART = frozenset({"mpjpeg"})
_NAMING_FILES = frozenset({"concat", "imf", "image2", "mlv", "sap", "vobsub", "webm_dash_manifest"})
_NAMING_ADDRESSES = frozenset({"rtp", "rtsp", "sdp"})
# What an address may lead to: never to files of this machine.
_PROTOCOLS = "http,https,httpproxy,tls,tcp,udp,rtp,srtp,rtmp,rtmps,rtmpt,rtsp,rtsps,srt,crypto,data"
_PIPED = ("matroska", "mpegts", "nut", "yuv4mpegpipe")
# The first frame soon: the frame rate, which takes twenty frames to find out, does not matter.
_LIVE_OPTIONS = {"analyzeduration": "2000000", "fpsprobesize": "0"}
_ERRORS = (av.FFmpegError, OSError, ValueError, MemoryError)
_only_formats: frozenset[str] | None = None
_most_pixels = MAX_PIXELS


def allow_only(formats: frozenset[str], *, pixels: int) -> None:
    """From now on this process opens only files of these formats (FFmpeg's names), with at most `pixels` in a frame.

    For a process that works on one file of a stranger.
    """
    global _only_formats, _most_pixels
    _only_formats, _most_pixels = formats, pixels


def open_file(path: Path) -> InputContainer:
    """An open container. Raises InputError, with the reason, when `path` is not a video file."""
    av.logging.set_libav_level(av.logging.PANIC)  # we report failures ourselves
    if not path.exists():
        check_not_almost_address(path)
        raise InputError(f"{path} does not exist", "check the spelling and the folder")
    if path.is_dir():
        raise InputError(f"{path} is a folder", "name a video file")
    if not path.is_file():
        raise InputError(
            f"{path} is a pipe or a device, not a file", f"save the video to a file first, or pipe it in: - < {path}"
        )
    try:
        container = _open_file(path)
        if _lacks_sound(container):
            # Joined transport streams announce their sound again: read all tables.
            further = {"scan_all_pmts": "1"} if container.format.name == "mpegts" else {}
            container.close()
            further |= {"probesize": str(_PROBED_BYTES), "analyzeduration": str(_PROBED_SECONDS * av.time_base)}
            container = _open_file(path, **further)
        return container
    except PermissionError:
        raise InputError(f"{path} cannot be read: permission denied", "check the file's permissions") from None
    except _ERRORS as error:
        raise _why_no_file(path, error) from error


def open_pipe(source: PipeInput) -> InputContainer:
    """An open container of what is piped in: one that describes itself and can be read without seeking.

    Raises InputError, with the reason, when it is anything else.
    """
    av.logging.set_libav_level(av.logging.PANIC)
    options = _LIVE_OPTIONS | {"format_whitelist": ",".join(sorted(_PIPED)), "protocol_whitelist": ""}
    try:
        return _limited(av.open(source, "r", metadata_errors="replace", container_options=options))
    except _ERRORS as error:
        raise _why_no_pipe(source.begin) from error


def _open_file(path: Path, **options: str) -> InputContainer:
    naming = _PLAYLISTS | _NAMING_FILES | _NAMING_ADDRESSES
    options["format_whitelist"] = _formats(but=naming) if _only_formats is None else ",".join(_only_formats - naming)
    options["protocol_whitelist"] = "file"
    # An absolute path: FFmpeg would take "12:30.mp4" for a protocol.
    return _limited(av.open(str(path.absolute()), metadata_errors="replace", container_options=options))


def _lacks_sound(container: InputContainer) -> bool:
    """Whether sound may begin later than libav probed: 5 MB or a few seconds."""
    sounds = container.streams.audio
    if not sounds:  # these announce their streams nowhere
        return container.format.name in ("mpeg", "flv") and container.size > _USUALLY_PROBED_BYTES
    return any(sound.codec_context is not None and not sound.codec_context.sample_rate for sound in sounds)


def open_address(address: str, settings: NetworkSettings, *, live: bool = False) -> InputContainer:
    """An open container. Raises InputError when there is no answer, no video, or a redirect that is not allowed.

    `live`: the first frame soon, and no retries within FFmpeg: the caller does that.
    """
    av.logging.set_libav_level(av.logging.PANIC)  # its lines would show passwords
    check_address(address)
    scheme = scheme_of(address)
    options = _protocol_options(scheme, settings, live=live)
    began = time.monotonic()
    try:
        return _open_address(scheme + address[len(scheme) :], options, settings)  # FFmpeg knows them in lower case only
    except _ERRORS as error:
        patience = 0.9 * min(settings.open_seconds, settings.read_seconds)
        silent = isinstance(error, av.error.ExitError | TimeoutError) or time.monotonic() - began > patience
        raise _why_no_address(address, error, silent=silent) from None  # the error's text holds the whole address


def _open_address(address: str, options: dict[str, str], settings: NetworkSettings) -> InputContainer:
    """Playlists are not followed at first: each may name any number of addresses, so they are checked before. Images
    between boundaries are cut apart here, see `multipart`."""
    plain = _formats(but=_PLAYLISTS | _NAMING_FILES | _MULTIPART)
    try:
        return _opened(address, options | {"format_whitelist": plain}, settings)
    except av.error.ArgumentError:  # also what FFmpeg says of a format that is not on the list
        if scheme_of(address) not in (*WEB, "tcp"):
            raise
        raw = _open_raw(address, settings)
        begin = _read_begin(raw, settings)
        if is_multipart(begin):
            rest = (bytes(packet) for packet in raw.demux() if packet.size)
            file = MultipartImages(itertools.chain([begin], rest))
            return _limited(av.open(file, "r", format="mpjpeg", metadata_errors="replace", container_options=options))
        raw.close()
        if scheme_of(address) not in WEB or not _look_at_playlist(address, begin, settings):
            raise
    return _opened(address, options | {"format_whitelist": _formats(but=_NAMING_FILES)}, settings)


def _look_at_playlist(address: str, begin: bytes, settings: NetworkSettings) -> bool:
    """Whether what begins so is a playlist. Raises InputError for one that names too much."""
    text = begin.decode("utf-8", "replace")
    if not is_playlist(text):
        return False
    segments = check_playlist(shown(address), text)
    deadline = time.monotonic() + settings.open_seconds
    for variant in variants_of(address, text):
        if time.monotonic() > deadline:
            raise TimeoutError
        try:
            with _open_raw(variant, settings) as raw:
                inner = _read_begin(raw, settings).decode("utf-8", "replace")
        except (*_ERRORS, InputError):
            continue  # FFmpeg takes another
        if variants_of(variant, inner):
            raise nested_playlists(shown(address))
        segments = check_playlist(shown(variant), inner, segments)
    return True


def _open_raw(address: str, settings: NetworkSettings) -> InputContainer:
    """A container whose packets are the bytes that come."""
    check_address(address)
    options = _protocol_options(scheme_of(address), settings, live=True) | {"raw_packet_size": str(1 << 16)}
    timeout = (settings.open_seconds, settings.read_seconds)
    return av.open(address, format="data", container_options=options, timeout=timeout)


def _read_begin(raw: InputContainer, settings: NetworkSettings) -> bytes:
    """The content of a playlist, up to the maximum size of one; the beginning of anything else."""
    held = bytearray()
    deadline = time.monotonic() + settings.open_seconds
    try:
        for packet in raw.demux():
            held += bytes(packet)
            too_long = len(held) > MAX_PLAYLIST_BYTES
            if begins_part(bytes(held[: 1 << 16])):  # its head may come in pieces
                continue
            if too_long or not is_playlist(held[:4096].decode("utf-8", "replace")):
                break
            if time.monotonic() > deadline:
                raise TimeoutError
    except _ERRORS:
        if not held or time.monotonic() > deadline:  # else: a server that closes roughly at the end
            raise
    return bytes(held)


def _opened(address: str, options: dict[str, str], settings: NetworkSettings) -> InputContainer:
    timeout = (settings.open_seconds, settings.read_seconds)
    return _limited(av.open(address, metadata_errors="replace", container_options=options, timeout=timeout))


def _limited(container: InputContainer) -> InputContainer:
    for stream in container.streams.video:
        if stream.codec_context is not None:
            stream.codec_context.options = {"max_pixels": str(_most_pixels)}
            stream.codec_context.thread_count = allowed_cores() or 0  # 0: as many as there are cores
    return container


@functools.cache
def _formats(*, but: frozenset[str]) -> str:
    return ",".join(sorted(av.formats_available - but))


def _protocol_options(scheme: str, settings: NetworkSettings, *, live: bool) -> dict[str, str]:
    patience = str(round(settings.read_seconds * 1_000_000))
    options = {"protocol_whitelist": _PROTOCOLS} | (_LIVE_OPTIONS if live else {})
    if scheme in WEB:
        options |= {"rw_timeout": patience}
        if not live:  # a break within a file is repaired by FFmpeg: it asks for the rest of the bytes
            # FFmpeg 8.1 also retries connections that the server has closed: the last option covers that.
            options |= dict.fromkeys(("reconnect", "reconnect_streamed", "reconnect_on_network_error"), "1")
            options |= {"reconnect_delay_max": "2"}  # after a second, it is our turn
    elif scheme in ("rtsp", "rtsps"):
        options |= {"rtsp_transport": "tcp", "timeout": patience}  # over UDP, packets get lost
    elif scheme in ("udp", "rtp", "srt"):
        options |= {"timeout": patience}
    else:
        options |= {"rw_timeout": patience}
    return options


def _why_no_address(address: str, error: BaseException, *, silent: bool) -> InputError:
    name = shown(address)
    if silent:
        return InputError(f"{name} does not answer in time", "check the address, the network and the sender")
    if isinstance(error, av.error.HTTPUnauthorizedError | av.error.HTTPForbiddenError):
        return InputError(
            f"{name} requires a user name and a password", "write them as SCHEME://USER:PASSWORD@HOST/..."
        )
    if isinstance(error, av.error.ProtocolNotFoundError):
        return InputError(
            f"{name} cannot be opened: PyAV's FFmpeg does not support {scheme_of(address)}",
            "have the sender send RTSP, RTMP or HTTP, or install PyAV from source with an FFmpeg that has it",
        )
    reason = getattr(error, "strerror", None) or "it cannot be read"
    if isinstance(error, av.error.ArgumentError):  # "Invalid argument"
        reason = "it is not a video, or leads to an address that is not allowed"
    return InputError(f"{name} cannot be opened: {reason}", advice_for(address))


def _why_no_pipe(begin: bytes) -> InputError:
    if not begin:
        return InputError(f"nothing came from {INPUT_NAME}", "check the program that writes into the pipe")
    fact = f"{INPUT_NAME} is not a video that can be read from a pipe"
    if begin[4:8] == b"ftyp":
        fact = "an mp4 or mov cannot be read from a pipe"
    return InputError(
        fact, "pass the file itself, or pipe Matroska, MPEG-TS, NUT or y4m, such as by ffmpeg -i FILE -c copy -f nut -"
    )


def _why_no_file(path: Path, error: BaseException) -> InputError:
    if _lacks_index(path):
        return InputError(
            f"{path} is truncated: its index (moov), at the end of the file, is missing",
            "copy or download the whole file again; an interrupted recording needs a repair tool",
        )
    if _begins_as_playlist(path):
        return InputError(
            f"{path} is a playlist: it names other files or addresses, which are not opened from a file",
            "pass the video itself, or the playlist's own address (https://...)",
        )
    if isinstance(error, MemoryError):
        fact = f"{path} needs more memory than available, or contains more than 1000 streams"
        return InputError(fact, "it is damaged, or malicious; get an intact copy")
    # The texts of other errors mislead: "Device or resource busy" for an impossible size.
    reason = "it is damaged at its beginning"
    if isinstance(error, av.error.InvalidDataError) and error.strerror:
        reason = error.strerror
    return InputError(f"{path} is not a video: {reason}", "pass a video file (mp4, mkv, mov, webm, ...)")


def _begins_as_playlist(path: Path) -> bool:
    with path.open("rb") as stream:
        start = stream.read(4096).decode("utf-8", "replace")
    return is_playlist(start) or re.match(r"\ufeff?\s*(ffconcat|v=0\r?\n|# VobSub)", start) is not None


def _lacks_index(path: Path) -> bool:
    """Whether the file begins as an mp4 or mov and has no `moov` box."""
    with path.open("rb") as stream:
        if stream.read(8)[4:] != b"ftyp":
            return False
        end = stream.seek(0, os.SEEK_END)
        at = 0
        while at + 8 <= end:
            stream.seek(at)
            header = stream.read(16)
            if header[4:8] == b"moov":
                return False
            size = int.from_bytes(header[:4], "big")
            if size == 1:  # the actual size follows the name
                size = int.from_bytes(header[8:16], "big")
            if size < 8:  # 0: up to the end of the file
                break
            at += size
    return True
