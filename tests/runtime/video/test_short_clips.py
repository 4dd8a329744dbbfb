"""Videos of one or two frames, for which libx265 gives decoding times at random."""

from pathlib import Path

import clips
import pytest

from dsmap.runtime.jobs.video import translate_video


@pytest.mark.parametrize("frames", [1, 2])
def test_hevc_takes_the_shortest_clips(tmp_path: Path, frames: int) -> None:
    path = clips.make_clip(tmp_path / "in.mp4", frames=frames)
    for index in range(10):
        report = translate_video(path, tmp_path / f"{index}.mp4", lambda rgb: rgb, codec="hevc")
        assert report.frames == frames
    assert len(clips.read(tmp_path / "9.mp4").frames) == frames
