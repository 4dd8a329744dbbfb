"""Checks of cameras and the display, which only dsmap-live uses."""

import os
import re
import socket
import sys
from pathlib import Path

from dsmap.errors import DsmapError
from dsmap.runtime.doctor import Finding, absent, first_line, install, not_tried, ok, warning
from dsmap.runtime.system.subprocess_call import isolated

_LIST_SECONDS, _CAMERA_SECONDS, _WINDOW_SECONDS, _SOCKET_SECONDS = 20.0, 8.0, 15.0, 2.0
_REPLUG = "unplug the camera and plug it in again"
_MAX_CAMERAS = 4
_X11_PORT = 6000


def check_cameras() -> Finding:
    """Which cameras deliver frames, tried one after the other."""
    listed = isolated("dsmap.runtime.doctor.devices:camera_names", _LIST_SECONDS, nested=True)
    if not isinstance(listed.value, dict):
        return warning(f"the cameras cannot be listed: {listed.ended}", "")
    cameras = {int(index): name for index, name in listed.value.items()}
    if sys.platform == "linux":
        cameras = {index: name for index, name in cameras.items() if Path(f"/dev/video{index}").exists()}
    if not cameras:
        return absent("no camera; dsmap-live also takes files and network streams")
    found, refused = [], []
    for index, name in list(cameras.items())[:_MAX_CAMERAS]:
        title = f"{index} ({name})" if name else str(index)
        outcome = isolated("dsmap.runtime.doctor.devices:read_camera", _CAMERA_SECONDS, nested=True, index=index)
        value: dict[str, str] = outcome.value or {"fact": f"camera {title}: {outcome.ended}", "advice": _REPLUG}
        if "size" in value:
            found.append(f"{title} {value['size']}")
        else:
            refused.append(value)
    if refused:
        others = f"; others work: {', '.join(found)}" if found else ""
        return warning(f"{refused[0]['fact']}{others}", refused[0]["advice"], cameras=found, refused=refused)
    return ok(", ".join(found), cameras=found)


def camera_names() -> dict[int, str]:
    """Cameras by index, with their names."""
    from dsmap.runtime.live.cameras import list_cameras

    return list_cameras()


def read_camera(index: int) -> dict[str, str]:
    """The size of a camera's frames, "640x480"; or the fact and the advice of why it delivers none."""
    from dsmap.runtime.live.cameras import CameraSource
    from dsmap.runtime.live.source import CaptureRequest

    try:
        info = CameraSource(index, CaptureRequest()).info
    except DsmapError as error:
        return {"fact": error.fact, "advice": error.advice}
    return {"size": f"{info.width}x{info.height}"}


def check_display() -> Finding:
    """Whether a window opens."""
    if sys.platform == "linux":
        x11, wayland = os.environ.get("DISPLAY", ""), os.environ.get("WAYLAND_DISPLAY", "")
        if not x11 and not wayland:
            return absent("neither DISPLAY nor WAYLAND_DISPLAY is set; dsmap-live needs --no-window")
        refusals = [
            refusal
            for name, value, reach in (("DISPLAY", x11, reach_x11), ("WAYLAND_DISPLAY", wayland, reach_wayland))
            if value and (refusal := reach(value)) and not (name == "WAYLAND_DISPLAY" and x11)
        ]
        if refusals:
            variable = "DISPLAY" if x11 else "WAYLAND_DISPLAY"
            command = "ssh -X HOST" if os.environ.get("SSH_CONNECTION") else f"unset {variable}"
            return warning(f"{refusals[0]}; dsmap-live needs --no-window", command)
    outcome = isolated("dsmap.runtime.doctor.devices:open_window", _WINDOW_SECONDS, nested=True)
    if outcome.value:
        return ok(f"a window opens ({outcome.value})")
    if outcome.ended.startswith(("ImportError", "ModuleNotFoundError", "AttributeError")):
        return not_tried("OpenCV does not load")
    if "not implemented" in outcome.ended:
        return absent("OpenCV has no windows (headless); dsmap-live needs --no-window", install.install_windows())
    lines = [line for line in outcome.said.splitlines() if re.search(r"display|xcb|qt", line, re.IGNORECASE)]
    reason = f"{outcome.ended}; {first_line(lines[0])}" if lines else outcome.ended
    return warning(f"no window opens: {reason}", "echo $DISPLAY $WAYLAND_DISPLAY $XAUTHORITY")


def reach_x11(display: str) -> str:
    """Why nobody answers at an X display (":0", "host:10.0"); empty when somebody does."""
    match = re.fullmatch(r"(?:unix|\S*/unix)?([^:/\s]*)(?:/unix)?:(\d+)(?:\.\d+)?", display)
    if not match:
        return "" if Path(display).exists() else f"DISPLAY is {display!r}, which is not the name of a display"
    host, number = match[1], int(match[2])
    path = f"/tmp/.X11-unix/X{number}"
    if host:
        try:
            socket.create_connection((host, _X11_PORT + number), timeout=_SOCKET_SECONDS).close()
        except (OSError, OverflowError) as error:
            return f"DISPLAY is {display}, and nothing answers there ({first_line(error)})"
        return ""
    refusal = ""
    for name in (f"\0{path}", path):  # an abstract socket, or one with a file
        refusal = _reach_socket(name)
        if not refusal:
            return ""
    return f"DISPLAY is {display}, and nothing answers there ({refusal})"


def reach_wayland(display: str) -> str:
    """Why nobody answers at a Wayland display ("wayland-0"); empty when somebody does."""
    refusal = _reach_socket(os.path.join(os.environ.get("XDG_RUNTIME_DIR", ""), display))
    return f"WAYLAND_DISPLAY is {display}, and nothing answers there ({refusal})" if refusal else ""


def _reach_socket(name: str) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(_SOCKET_SECONDS)
        try:
            client.connect(name)
        except (OSError, ValueError) as error:
            return first_line(getattr(error, "strerror", None) or error)
    return ""


def open_window() -> str:
    """Opens a small window and closes it: what draws it ("QT5"). It ends the process where there is no display."""
    import cv2
    import numpy as np

    name = "dsmap-doctor"
    cv2.imshow(name, np.zeros((48, 64, 3), np.uint8))
    cv2.waitKey(50)
    cv2.destroyAllWindows()
    gui = re.search(r"^\s*GUI:[ \t]*(.*)$", cv2.getBuildInformation(), re.MULTILINE)
    return gui[1].strip() if gui and gui[1].strip() else "OpenCV"
