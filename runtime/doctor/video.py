"""Checks of OpenCV, of PyAV with its FFmpeg, and of its encoders."""

import importlib
import re
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from dsmap.errors import DsmapError
from dsmap.runtime.doctor import Finding, absent, failed, first_line, install, ok, warning
from dsmap.runtime.doctor.packages import SYSTEM_LIBRARIES, numpy_first, system_libraries, why_not
from dsmap.runtime.system.subprocess_call import isolated

if TYPE_CHECKING:
    from dsmap.runtime.video.encoder_table import Encoder

OPENCV = r"opencv(-.*)?"
_SIDE, _FRAMES = 256, 2
_NEEDED, _NVENC = "h264", "_nvenc"
_ENCODER_SECONDS = 30.0


def fix_opencv() -> str:
    """The command that leaves one OpenCV."""
    names = tuple(package.name for package in install.owners(OPENCV, "cv2"))
    if len(names) == 1:
        return install.install_again(names[0])
    windows = any(not name.endswith("headless") for name in names)
    return install.install("window" if windows else "cpu", without=names)


def check_opencv() -> Finding:
    """One OpenCV (or two wheels of one version), which loads and computes; whether it has windows."""
    packages = install.owners(OPENCV, "cv2")
    names = [f"{package.name} {package.version}" for package in packages]
    try:
        import cv2
    except Exception as error:
        if SYSTEM_LIBRARIES.search(str(error)):
            return failed(f"OpenCV cannot be loaded: {first_line(error)}", system_libraries(), packages=names)
        if not packages and isinstance(error, ModuleNotFoundError) and error.name == "cv2":
            return failed("OpenCV is not installed", install.install("cpu"))
        fact, command = why_not("cv2", packages) or ("", "")
        if not fact and (finding := numpy_first()):
            return finding
        return failed(fact or f"OpenCV cannot be loaded: {first_line(error)}", command or fix_opencv(), packages=names)
    empty = not hasattr(cv2, "resize")
    same = len({package.version for package in packages}) == 1  # one of them has replaced the files of the other
    if reason := why_not("cv2", packages[:1] if same else packages):
        told = f"the installed cv2 is empty: {reason[0]}" if empty else reason[0]
        return (failed if empty else warning)(told, reason[1] or fix_opencv(), packages=names)
    if empty:
        return failed("the installed cv2 is empty: one of two packages was removed", fix_opencv(), packages=names)
    gui = re.search(r"^\s*GUI:[ \t]*(.*)$", cv2.getBuildInformation(), re.MULTILINE)
    windows = gui is not None and gui[1].strip().upper() not in ("NONE", "NO")
    told = "with windows" if windows else "without windows (headless)"
    return ok(f"{' and '.join(names) or f'OpenCV {cv2.__version__}'}, {told}", packages=names, windows=windows)


def check_av() -> Finding:
    """PyAV and the FFmpeg libraries that its wheel brings."""
    try:
        # Alone, without cv2 before it, which may be what is broken: no window is opened in this process.
        av = importlib.import_module("av")
    except Exception as error:
        return failed(f"PyAV cannot be imported: {first_line(error)}", fix_av())
    versions = {name: ".".join(map(str, numbers)) for name, numbers in av.library_versions.items()}
    ffmpeg = getattr(av, "ffmpeg_version_info", "")
    return ok(
        f"av {av.__version__}, FFmpeg {ffmpeg or 'libavcodec ' + versions.get('libavcodec', 'unknown')}",
        libraries=versions,
    )


def fix_av() -> str:
    """The command that reinstalls PyAV's own wheel."""
    found = install.installed("av")
    return install.install_again("av") if found else install.install("cpu")


def check_encoders() -> Finding:
    """That every codec of dsmap-video encodes two frames. H.264 is required; NVENC needs an NVIDIA GPU."""
    try:
        from dsmap.runtime.video.encoder_table import CODECS
    except ImportError as error:
        return numpy_first() or failed(first_line(error), fix_av())
    results = _try_all(CODECS)
    works = [codec for codec, reason in results.items() if not reason]
    lacking = {codec: reason for codec, reason in results.items() if reason}
    if _NEEDED in lacking:
        return failed(f"{_NEEDED} does not encode: {lacking[_NEEDED]}", fix_av(), codecs=results)
    software = [codec for codec in lacking if not codec.endswith(_NVENC)]
    if software:
        told = ", ".join(f"{codec} ({lacking[codec]})" for codec in software)
        return warning(f"{', '.join(works)} encode, but not {told}", fix_av(), codecs=results)
    reasons = {codec: reason for codec, reason in lacking.items() if codec.endswith(_NVENC)}
    some = any(codec.endswith(_NVENC) for codec in works)
    nvenc = "" if some or not reasons else f"; NVENC does not: {next(iter(reasons.values()))}"
    return ok(f"{', '.join(works)} encode{nvenc}", codecs=results)


def check_decoding() -> Finding:
    """Which devices decode videos with --hwaccel: those that open here, and why others do not."""
    from av.codec.hwaccel import hwdevices_available

    from dsmap.runtime.video.hardware import DEVICES, device_failure, usual_devices

    built = hwdevices_available()
    results = {device: device_failure(device) or "" for device in DEVICES}
    if opened := [device for device, reason in results.items() if not reason]:
        return ok(f"{', '.join(opened)} opens (--hwaccel)", devices=results, built=built)
    told = "; ".join(f"{device}: {results[device]}" for device in usual_devices() if device in built)
    return absent(f"software only{'; ' + told if told else ''}", devices=results, built=built)


def _try_all(codecs: tuple[str, ...]) -> dict[str, str]:
    """Why each codec does not encode, empty where it does; after a crash each is tried by itself."""
    target = "dsmap.runtime.doctor.video:try_codecs"
    outcome = isolated(target, _ENCODER_SECONDS, nested=True, codecs=list(codecs))
    if isinstance(outcome.value, dict):
        return outcome.value
    results: dict[str, str] = {}
    for codec in codecs:
        alone = isolated(target, _ENCODER_SECONDS / 3, nested=True, codecs=[codec])
        results.update(alone.value if isinstance(alone.value, dict) else {codec: alone.ended})
    return results


def try_codecs(codecs: list[str]) -> dict[str, str]:
    """Encodes two frames with each codec, for its usual container: why that failed, empty where it did not."""
    from dsmap.runtime.video.encoders import EncoderSettings, default_suffix, reason_alone, resolve

    results = {}
    for codec in codecs:
        try:
            encoder = resolve(EncoderSettings(codec=codec), default_suffix(codec))
            results[codec] = "" if _encode(encoder) else "it wrote nothing"
        except DsmapError as error:
            results[codec] = reason_alone(error)
        except Exception as error:  # FFmpeg's errors share bases with everything
            results[codec] = first_line(error)
    return results


def _encode(encoder: "Encoder") -> int:
    """The bytes of two black frames."""
    import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

    # isort: split
    import av

    context: Any = av.CodecContext.create(encoder.library, "w")
    context.width = context.height = _SIDE
    context.pix_fmt, context.framerate, context.time_base = encoder.pix_fmt, Fraction(25), Fraction(1, 25)
    context.options = encoder.options
    packets = []
    for pts in range(_FRAMES):
        frame = av.VideoFrame(_SIDE, _SIDE, encoder.pix_fmt)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.pts = pts
        packets += context.encode(frame)
    packets += context.encode(None)
    return sum(packet.size for packet in packets)
