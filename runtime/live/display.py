"""Checking for a display: without one, OpenCV's windows abort the whole process.

With Qt, which OpenCV's Linux wheels use, a missing display, a refused one and a missing system library are all fatal
(SIGABRT, nothing to catch). So what Qt would do is tried here first: load its X11 library, and connect.
"""

import ctypes
import os
import sys
from pathlib import Path

import cv2

from dsmap.errors import DsmapError
from dsmap.runtime.doctor.install import install_windows

_INSTEAD = "use --no-window (with --record, --virtual-camera or --report), or run it on a desktop"


def check_display() -> None:
    """Raise DsmapError, with what is missing, unless a window can be opened."""
    framework = gui_framework()
    if not framework:
        raise DsmapError(
            "the installed OpenCV has no windows (opencv-python-headless)",
            f"{install_windows()}; or use --no-window",
        )
    if sys.platform != "linux":
        return
    names = [name for name in ("DISPLAY", "WAYLAND_DISPLAY") if os.environ.get(name)]
    if framework.startswith("QT"):
        _check_qt()
    elif not names:
        raise _no_display()


def gui_framework() -> str:
    """What this OpenCV draws windows with (QT5, GTK3, WIN32, COCOA, ...); empty without windows."""
    try:
        return cv2.currentUIFramework().upper()
    except (cv2.error, AttributeError):  # missing before 4.5.3
        line = next((text for text in cv2.getBuildInformation().splitlines() if "GUI:" in text), "GUI: NONE")
        name = line.partition("GUI:")[2].strip().upper()
        return "" if name == "NONE" else name


def _check_qt() -> None:
    plugins = Path(cv2.__file__).parent / "qt" / "plugins" / "platforms"
    wanted = _qt_platforms(plugins)
    if not wanted:
        raise _no_display()
    available = [name for name in wanted if (plugins / f"libq{name}.so").exists()]
    if plugins.is_dir() and not available:
        raise DsmapError(
            f"OpenCV's windows do not support {wanted[0]} (supported: {', '.join(_names(plugins)) or 'nothing'})",
            f"start an X server (Xwayland) and set DISPLAY, unset QT_QPA_PLATFORM; or {_INSTEAD}",
        )
    if "xcb" in (available or wanted):
        _check_library(plugins / "libqxcb.so")
        _check_x11()


def _qt_platforms(plugins: Path) -> list[str]:
    """The Qt platforms (names of plugins) that would be tried; empty without a display."""
    if chosen := os.environ.get("QT_QPA_PLATFORM"):
        return [part.partition(":")[0] for part in chosen.split(";")]
    if os.environ.get("DISPLAY"):
        return ["xcb"]
    return ["wayland-generic", "wayland-egl"] if os.environ.get("WAYLAND_DISPLAY") else []


def _names(plugins: Path) -> list[str]:
    return sorted(path.stem.removeprefix("libq") for path in plugins.glob("libq*.so"))


def _check_library(path: Path) -> None:
    """Load Qt's plugin: its own libraries are in the wheel, but missing system libraries show."""
    if not path.exists():
        return  # a custom build, which knows where its libraries are
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        raise DsmapError(
            f"OpenCV's windows cannot be loaded: {error}",
            "on Debian or Ubuntu: apt-get install libgl1 libxcb1 libx11-6 libx11-xcb1; or use --no-window",
        ) from None


def _check_x11() -> None:
    """Connect to the X server given by DISPLAY, with the user's rights, and disconnect."""
    display = os.environ.get("DISPLAY")
    if not display:
        raise _no_display()
    try:
        xcb = ctypes.CDLL("libxcb.so.1")
    except OSError:
        return  # a Qt that was built differently
    xcb.xcb_connect.restype = ctypes.c_void_p
    xcb.xcb_connect.argtypes = [ctypes.c_char_p, ctypes.POINTER(ctypes.c_int)]
    xcb.xcb_connection_has_error.argtypes = xcb.xcb_disconnect.argtypes = [ctypes.c_void_p]
    connection = xcb.xcb_connect(None, None)  # never null: a failed connection reports an error
    failed = xcb.xcb_connection_has_error(connection)
    xcb.xcb_disconnect(connection)
    if failed:
        raise DsmapError(f"the display {display} (DISPLAY) cannot be opened", f"check DISPLAY; or {_INSTEAD}")


def _no_display() -> DsmapError:
    return DsmapError("there is no display: neither DISPLAY nor WAYLAND_DISPLAY is set", _INSTEAD)
