"""Two writers of one name share no temporary and write nothing over; a finished result is where it is said to be."""

import os
import re
import threading
import time
from fractions import Fraction
from pathlib import Path

import clips
import numpy as np
import pytest

from dsmap.common.part_files import is_part_name
from dsmap.errors import DsmapError
from dsmap.runtime.jobs.video import translate_video
from dsmap.runtime.live.recorder import Recorder
from dsmap.runtime.live.recordings import SnapshotWriter
from dsmap.runtime.live.translation import LiveFrame
from dsmap.runtime.video.encoders import EncoderSettings
from dsmap.runtime.video.sequence_writer import SequenceWriter
from dsmap.runtime.video.writer import VideoWriter

RGB = np.full((48, 64, 3), 90, np.uint8)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def same(frame: np.ndarray) -> np.ndarray:
    return frame


def writer(path: Path) -> VideoWriter:
    options = {"width": 64, "height": 48, "time_base": Fraction(1, 30), "rate": Fraction(30)}
    return VideoWriter(path, encoding=EncoderSettings(codec="h264"), **options)


def test_closing_a_writer_twice_is_harmless(tmp_path: Path):
    out = writer(tmp_path / "out.mp4")
    out.write(RGB, 0, 1)
    out.close()
    before = (tmp_path / "out.mp4").read_bytes()
    out.close()
    out.close(interrupted=True, drop_audio_after_video=True)
    assert (tmp_path / "out.mp4").read_bytes() == before
    out.discard()
    out.close()
    out.discard()
    assert names(tmp_path) == []
    frames = SequenceWriter(tmp_path / "frames" / "%d.png")
    frames.write(RGB, 0)
    frames.close()
    frames.close()
    frames.discard()
    assert names(tmp_path / "frames") == ["1.png"]


@pytest.mark.parametrize("resumable", [True, False])
def test_jobs_for_one_name_share_nothing(tmp_path: Path, resumable: bool):
    """The second is done while the first is at work: the first keeps its result, beside."""
    source = clips.make_clip(tmp_path / "in.mp4", frames=4)
    output, second = tmp_path / "out.mp4", []

    def translate(frame: np.ndarray) -> np.ndarray:
        if not second:
            second.append(True)
            if resumable:
                with pytest.raises(DsmapError, match="another process is working in"):
                    translate_video(source, output, same, made_with={})
                output.write_text("somebody else's")
            else:
                assert translate_video(source, output, same).complete
        return frame

    made_with = {"made_with": {}} if resumable else {}
    with pytest.raises(DsmapError, match=r"it is complete, and was saved as .*out-2\.mp4"):
        translate_video(source, output, translate, **made_with)
    assert names(tmp_path) == ["in.mp4", "out-2.mp4", "out.mp4"]
    assert len(clips.read(tmp_path / "out-2.mp4").times) == 4
    assert resumable or len(clips.read(output).times) == 4


def test_images_that_cannot_have_their_names_stay_where_it_is_said(tmp_path: Path):
    source, folder = clips.make_clip(tmp_path / "in.mp4", frames=3), tmp_path / "frames"
    folder.mkdir()
    (folder / "mine.txt").write_text("precious")

    def translate(frame: np.ndarray) -> np.ndarray:
        (folder / "00003.png").write_text("somebody else's")
        return frame

    with pytest.raises(DsmapError, match="could not be named") as caught:
        translate_video(source, folder / "%05d.png", translate)
    place = Path(re.search(r"lie in (.*)$", caught.value.advice)[1])
    assert names(place) == ["00001.png", "00002.png", "00003.png"]
    assert names(folder) == ["00003.png", place.name, "mine.txt"]
    assert (folder / "00003.png").read_text() == "somebody else's"


def test_images_named_in_part_go_back(tmp_path: Path):
    out = SequenceWriter(tmp_path / "%d.png")
    for index in range(3):
        out.write(RGB, index)
    (tmp_path / "3.png").symlink_to(tmp_path / "missing")  # unseen until the third is named
    with pytest.raises(DsmapError, match=r"lie in .*frames-2$"):
        out.close()
    assert names(tmp_path) == ["3.png", "frames-2"]
    assert names(tmp_path / "frames-2") == ["1.png", "2.png", "3.png"]


def test_only_what_follows_a_shorter_sequence_goes(tmp_path: Path):
    for name in ("1.png", "2.png", "3.png", "7.png", "notes.txt"):
        (tmp_path / name).write_text("earlier")
    (tmp_path / "4.png").symlink_to(tmp_path / "notes.txt")
    out = SequenceWriter(tmp_path / "%d.png", overwrite=True)
    out.write(RGB, 0)
    out.close()
    assert names(tmp_path) == ["1.png", "4.png", "7.png", "notes.txt"]


def record(path: Path, *, overwrite: bool = False) -> Recorder:
    recorder = Recorder(path, rate=30, overwrite=overwrite)
    recorder.put(RGB, 1.0)
    recorder.put(RGB, 1.1)
    return recorder


def test_two_recordings_of_one_name(tmp_path: Path):
    both = [record(tmp_path / "r.mp4") for _ in range(2)]
    deadline = time.monotonic() + 180
    while len([path for path in tmp_path.iterdir() if is_part_name(path.name)]) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(names(tmp_path)) == 2
    for recorder in both:
        recorder.finish()
    for recorder in both:
        recorder.wait()
    assert names(tmp_path) == ["r-2.mp4", "r.mp4"]
    (error,) = (recorder.error for recorder in both if recorder.error)
    assert str(tmp_path / "r-2.mp4") in error.advice
    for name in names(tmp_path):
        assert len(clips.read(tmp_path / name).times) == 2


def test_a_recording_without_frames_leaves_nothing(tmp_path: Path):
    recorder = Recorder(tmp_path / "r.mp4", rate=30, overwrite=False)
    recorder.finish()
    recorder.wait()
    assert names(tmp_path) == []


def test_a_recording_with_the_longest_name(tmp_path: Path):
    path = tmp_path / ("r" * 251 + ".mp4")
    recorder = record(path)
    recorder.finish()
    recorder.wait()
    assert recorder.error is None
    assert names(tmp_path) == [path.name]


def test_snapshots_never_take_a_name_that_is_there(tmp_path: Path, monkeypatch):
    """Two sessions in one folder, in the same second."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dsmap.runtime.live.recordings.name_by_time", lambda suffix: f"now{suffix}")
    told: list[str] = []
    sessions = [SnapshotWriter(told.append) for _ in range(3)]
    frame = LiveFrame(input_rgb=RGB, result_rgb=RGB, captured=0.0, begun=0.0, done=0.0)
    start = threading.Barrier(3)

    def take(session: SnapshotWriter) -> None:
        start.wait()
        for _ in range(3):
            session.take(frame)
        session.close()

    threads = [threading.Thread(target=take, args=(session,)) for session in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = [path for session in sessions for path in session.paths]
    assert len(taken) == len({path.name for path in taken}) == 2 * sum("snapshot now" in line for line in told)
    assert len(taken) >= 6
    assert not [name for name in names(tmp_path) if is_part_name(name)]


def test_a_link_under_a_temporary_name_is_never_opened(tmp_path: Path, monkeypatch):
    """Even when somebody foresees the name."""
    tokens = iter(["aaaaaaaa", "bbbbbbbb", *(f"{number:08x}" for number in range(100))])
    monkeypatch.setattr("dsmap.common.part_files.secrets.token_hex", lambda _bytes: next(tokens))
    (tmp_path / "precious.txt").write_text("precious")
    source = clips.make_clip(tmp_path / "in.mp4", frames=2)
    for token in ("aaaaaaaa", "bbbbbbbb"):
        (tmp_path / f".out.{token}.part.mp4").symlink_to(tmp_path / "precious.txt")
    assert translate_video(source, tmp_path / "out.mp4", same).complete
    assert (tmp_path / "precious.txt").read_text() == "precious"
    assert not os.path.islink(tmp_path / "out.mp4")
