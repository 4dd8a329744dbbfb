"""Renders the demo clip that comes with the project: `python -m dsmap.tools.demo_clip OUT.mp4`.

Picture and sound are computed, so nobody else's rights are in it, and the same seed gives the same clip.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsmap.tools.shared.cli import new_app, run
from dsmap.tools.shared.terminal import report_error, say

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

app = new_app()

FPS, SAMPLE_RATE = 24, 48000


def render_demo_clip(path: Path, *, seconds: float = 4.0, seed: int = 3) -> None:
    """Write the clip to `path`: 480x270 H.264 (BT.709, yuv420p) at 24 fps with stereo AAC, mp4 that starts at once.

    It is written beside `path` and renamed when whole. Raises InputError when `path` is no .mp4 or has no folder.
    """
    import cv2  # noqa: F401  (before av: with av first, OpenCV's windows hang on Linux)

    # isort: split
    import av

    from dsmap.common.atomic import atomic_write
    from dsmap.errors import InputError
    from dsmap.tools.landscape import Landscape

    if path.suffix.lower() != ".mp4" or not path.parent.is_dir():
        raise InputError(f"Cannot write the clip to {path}.", "Give a name that ends in .mp4, in a folder that exists.")
    landscape = Landscape(seed)
    frames = round(seconds * FPS)
    encoding = {"movflags": "+faststart", "fflags": "+bitexact"}
    with atomic_write(path) as part, av.open(str(part), "w", options=encoding) as container:
        video, audio = _add_streams(container)
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(landscape.frame(index / max(frames - 1, 1)), format="rgb24")
            frame = frame.reformat(format="yuv420p", src_colorspace="ITU709", dst_colorspace="ITU709")
            frame.pts = index
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        _encode_sound(container, audio, wind_and_birds(frames / FPS, seed))


def _add_streams(container: Any) -> tuple[Any, Any]:
    # One thread and no macroblock tree: with either, x264 writes other bytes from run to run.
    options = {"crf": "20", "preset": "slow", "threads": "1", "x264-params": "mbtree=0"}
    video = container.add_stream("libx264", rate=FPS, options=options)
    video.width, video.height, video.pix_fmt = 480, 270, "yuv420p"
    context = video.codec_context
    context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
    context.color_range = 1  # 16..235
    audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="stereo")
    audio.bit_rate = 96_000
    return video, audio


def _encode_sound(container: Any, audio: Any, sound: "npt.NDArray[np.float32]") -> None:
    import av
    import numpy as np

    for start in range(0, sound.shape[1], 1024):
        block = np.ascontiguousarray(sound[:, start : start + 1024])
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = SAMPLE_RATE, start
        container.mux(audio.encode(frame))
    container.mux(audio.encode(None))


def wind_and_birds(seconds: float, seed: int) -> "npt.NDArray[np.float32]":
    """Stereo sound, float32 (2, samples) in [-1, 1] at 48 kHz: wind in the trees and a few soft chirps."""
    import numpy as np

    rng = np.random.default_rng(seed)
    count = round(seconds * SAMPLE_RATE)
    time = np.arange(count) / SAMPLE_RATE
    hertz = np.fft.rfftfreq(count, 1 / SAMPLE_RATE)
    # Wind: noise that is loudest around 250 Hz and fades towards both ends, in slow gusts.
    shape = (hertz / 250) / (1 + (hertz / 250) ** 2.4)
    wind = np.stack([np.fft.irfft(np.fft.rfft(rng.standard_normal(count)) * shape, count) for _ in range(2)])
    gusts = 0.7 + 0.3 * np.sin(2 * np.pi * (time * 0.23 + rng.uniform()))
    sound = 0.05 * gusts * wind / wind.std()
    for begin in rng.uniform(0.05, 0.9, 5) * seconds:
        pitch, pan = rng.uniform(2600, 4400), rng.uniform(0.2, 0.8)
        for note in range(int(rng.integers(2, 5))):
            sound += _chirp(time - begin - 0.13 * note, pitch * rng.uniform(0.95, 1.08)) * np.array([[1 - pan], [pan]])
    fade = np.clip(np.minimum(time, seconds - time) / 0.15, 0, 1)
    return np.clip(sound * fade, -1, 1).astype(np.float32)


def _chirp(since: "npt.NDArray[np.float64]", pitch: float) -> "npt.NDArray[np.float64]":
    """A note of 0.09 s that swoops up by a quarter."""
    import numpy as np

    progress = np.clip(since / 0.09, 0, 1)
    swoop = 2 * np.pi * pitch * (since + since**2 * 0.125 / 0.09)
    return 0.06 * np.sin(np.pi * progress) ** 2 * np.sin(swoop)


@app.command(help="Render the demo clip: a summer valley with wind and birds.")
def demo_clip(
    path: Annotated[Path, typer.Argument(metavar="OUT.mp4", help="Where the clip is written.")],
    seconds: Annotated[float, typer.Option(min=0.1, max=60, help="Its length.")] = 4.0,
    seed: Annotated[int, typer.Option(min=0, help="Another seed is another valley.")] = 3,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")] = False,
) -> None:
    from dsmap.common.output_files import check_outputs
    from dsmap.errors import DsmapError

    try:
        check_outputs({"OUT.mp4": path}, overwrite=overwrite)
        render_demo_clip(path, seconds=seconds, seed=seed)
    except DsmapError as error:
        report_error(error.fact, error.advice)
        raise typer.Exit(error.exit_code) from error
    say(f"Wrote {path} ({path.stat().st_size / 1000:.0f} kB).")


def main() -> None:
    """Entry point."""
    run(app)


if __name__ == "__main__":
    main()
