"""libcuda, libnvcuvid and libnvidia-encode without a card, so that FFmpeg's own code for NVDEC and NVENC runs.

The decoder decodes nothing: `pictures` writes what it hands out. The encoder keeps every value that it is given.
Everything around them is real: which formats FFmpeg offers and what it falls back to, its frame pools, cropping,
timestamps, the transfer to memory, and what errors look like.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2  # noqa: F401  # before av

# isort: split
import av
import numpy as np

COMPILER = shutil.which("cc") if sys.platform == "linux" and sys.maxsize > 2**32 else None
_HERE = Path(__file__).parent


def build(folder: Path) -> None:
    """Compiles them into `folder`, with a function that succeeds for every other name that FFmpeg looks up."""
    libraries = next(path for path in Path(av.__file__).parent.parent.glob("av.libs") if path.is_dir())
    for source, library, owner, names in (
        ("cuda.c", "libcuda.so.1", "libavutil*", rb"\0(cu[A-Z]\w+)(?=\0)"),
        ("cuvid.c", "libnvcuvid.so.1", "libavcodec*", rb"\0(cuvid[A-Z]\w+)(?=\0)"),
        ("nvenc.c", "libnvidia-encode.so.1", "libavcodec*", rb"\0(NvEncodeAPI\w+)(?=\0)"),
    ):
        code = (_HERE / source).read_text()
        looked_up = {name.decode() for name in re.findall(names, next(libraries.glob(owner)).read_bytes())}
        missing = sorted(name for name in looked_up if not re.search(rf"\b{name}\(", code))
        code += "".join(f"int {name}(void) {{ return 0; }}\n" for name in missing)
        (folder / source).write_text(code)
        command = [COMPILER, "-shared", "-fPIC", "-w", "-O1", "-o", folder / library, folder / source]
        subprocess.run(command, check=True)


def pictures(video: Path, path: Path, size: tuple[int, int]) -> None:
    """Writes what a card would decode of `video`, which has no B-frames: NV12 or P010 of the coded `size`."""
    with av.open(str(video)) as container, path.open("wb") as out:
        for frame in container.decode(video=0):
            semi = {"yuv420p": "nv12", "yuv420p10le": "p010le"}[frame.format.name]
            kind = np.uint8 if semi == "nv12" else np.uint16
            for index, plane in enumerate(frame.reformat(format=semi).planes):
                coded = np.zeros((size[1] >> index, size[0]), kind)
                values = np.frombuffer(memoryview(plane), kind).reshape(plane.height, -1)[:, : size[0]]
                coded[: plane.height, : values.shape[1]] = values
                out.write(coded.tobytes())
