"""From a bundle to frames. Needs no torch.

from dsmap.runtime import Stabilizer, Translator, VideoReader, VideoWriter, translate_video, translate_videos
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dsmap.runtime.jobs.batch import translate_videos
    from dsmap.runtime.jobs.video import translate_video
    from dsmap.runtime.stabilization.stabilizer import Stabilizer
    from dsmap.runtime.translator import Translator
    from dsmap.runtime.video.reader import VideoReader
    from dsmap.runtime.video.writer import VideoWriter

__all__ = ["Stabilizer", "Translator", "VideoReader", "VideoWriter", "translate_video", "translate_videos"]

# Loaded when they are asked for: `import dsmap.runtime` is light.
_MODULES = {
    "Stabilizer": "stabilization.stabilizer",
    "Translator": "translator",
    "VideoReader": "video.reader",
    "VideoWriter": "video.writer",
    "translate_video": "jobs.video",
    "translate_videos": "jobs.batch",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
