"""Publishing the result as a virtual camera, through pyvirtualcam, which is GPL-2 and so not a dependency."""

import importlib
import sys
from typing import Any

from dsmap.errors import DsmapError
from dsmap.runtime.live.recorder import fit
from dsmap.runtime.live.source import Pixels

_DEVICES = {
    "linux": "make a device: sudo apt-get install v4l2loopback-dkms && sudo modprobe v4l2loopback devices=1",
    "win32": "install OBS Studio, which brings a virtual camera",
    "darwin": "install OBS Studio, and start its virtual camera once",
}


class VirtualCamera:
    """A camera that other programs can use. Its size is that of the first frame; later ones are fitted into it.

    Raises DsmapError when pyvirtualcam or the system's device is missing.
    """

    def __init__(self, fps: float) -> None:
        self.module = import_pyvirtualcam()
        self.device: str | None = None
        """Its name in other programs, once it is open."""
        self._fps = fps
        self._camera: Any = None

    def send(self, rgb: Pixels) -> None:
        """Send a frame, uint8 RGB (H, W, 3)."""
        if self._camera is None:
            height, width = rgb.shape[0] // 2 * 2, rgb.shape[1] // 2 * 2  # video chats need even sizes
            self._camera = self._open(max(2, width), max(2, height))
            self.device = str(self._camera.device)
        self._camera.send(fit(rgb, self._camera.width, self._camera.height))

    def close(self) -> None:
        """Remove the camera."""
        if self._camera is not None:
            self._camera.close()
            self._camera = None

    def _open(self, width: int, height: int) -> Any:
        try:
            return self.module.Camera(width=width, height=height, fps=self._fps)  # takes RGB by default
        except (RuntimeError, OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise DsmapError(
                f"no virtual camera can be opened: {reason}", _DEVICES.get(sys.platform, "see pyvirtualcam's page")
            ) from error


def import_pyvirtualcam() -> Any:
    """The module pyvirtualcam. Raises DsmapError when it is not installed."""
    try:
        return importlib.import_module("pyvirtualcam")
    except ImportError as error:
        raise DsmapError(
            f"--virtual-camera needs pyvirtualcam, which is not installed ({error})",
            "install it: pip install 'dsmap[virtual-camera]' (its licence is GPL-2)",
        ) from error
