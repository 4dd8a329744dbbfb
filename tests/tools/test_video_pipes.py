"""`dsmap video - -o -`: videos through standard input and output, between real processes."""

import io
import os
import pty
import shutil
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import clips
import cv2  # noqa: F401  # before av
import numpy as np
import pytest
from stand_in import STAND_IN, assert_refused

# isort: split
import av

from dsmap.errors import InputError
from dsmap.runtime.jobs.options import VideoOptions
from dsmap.runtime.jobs.piped import check_pipes

UNEVEN = [0, 1001, 2502, 3003, 7007, 7508, 9009, 12012, 12513, 15015]


def start(*arguments: object, stdin: object = subprocess.PIPE, **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", STAND_IN, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=stdin, stdout=pipe, stderr=pipe, env={**os.environ, **environment})


def run(*arguments: object, data: bytes = b"", **environment: str) -> tuple[int, bytes, str]:
    """(exit code, stdout, stderr)"""
    out, err = (process := start(*arguments, **environment)).communicate(data, timeout=180)
    return process.returncode, out, err.decode()


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """Ten frames at uneven times, with sound."""
    path = tmp_path_factory.mktemp("pipes") / "clip.mkv"
    return clips.make_clip(path, pts=UNEVEN, last_duration=1001, audio=["aac"], audio_seconds=0.5)


def content(data: bytes, folder: Path) -> clips.Video:
    (folder / "out.mkv").write_bytes(data)
    return clips.read(folder / "out.mkv")


def test_a_video_passes_through_with_its_times_and_its_sound(clip, tmp_path):
    code, out, err = run("-", "-d", "winter", "-o", "-", "--codec", "lossless", data=clip.read_bytes())
    assert code == 0, err
    assert "loaded with style" in err  # what a library prints on stdout goes to stderr
    assert "standard output: 10 of 10 done" in err
    before, after = clips.read(clip), content(out, tmp_path)
    assert after.times == before.times
    assert after.audio == before.audio
    assert all(
        np.abs(255 - one.astype(int) - two).max() <= 3 for one, two in zip(before.frames, after.frames, strict=True)
    )


def test_from_a_file_and_into_a_file(clip, tmp_path):
    code, out, err = run(clip, "-d", "winter", "-o", "-")
    assert code == 0, err
    assert content(out, tmp_path).times == clips.read(clip).times
    result = tmp_path / "result.mp4"
    code, out, err = run("-", "-d", "winter", "-o", result, "--frames", 4, data=clip.read_bytes())
    assert (code, len(clips.read(result).times)) == (0, 4), err
    assert b"result.mp4: 4 of 4 done" in out
    refused = run("-", "-d", "winter", "-o", result, data=clip.read_bytes())
    assert_refused((refused[0], refused[1].decode(), refused[2]), 2, "exists already")


@pytest.mark.parametrize("kind", ["y4m", "mpegts", "nut"])
def test_other_containers_that_describe_themselves(kind, tmp_path):
    data = io.BytesIO()
    with av.open(data, "w", format={"y4m": "yuv4mpegpipe"}.get(kind, kind)) as container:
        stream = container.add_stream("rawvideo" if kind != "mpegts" else "libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 * index, np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    code, out, err = run("-", "-d", "winter", "-o", "-", data=data.getvalue())
    assert code == 0, err
    times = content(out, tmp_path).times
    assert [time - times[0] for time in times] == [Fraction(index, 25) for index in range(5)]


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg")
def test_between_two_ffmpegs(clip, tmp_path):
    """As the documentation has it."""
    quiet = ["ffmpeg", "-v", "error", "-y"]
    before = subprocess.Popen([*quiet, "-i", str(clip), "-c", "copy", "-f", "matroska", "-"], stdout=subprocess.PIPE)
    process = start("-", "-d", "winter", "-o", "-", "--codec", "raw", stdin=before.stdout)
    result = tmp_path / "result.mkv"
    after = [*quiet, "-i", "-", "-c:v", "ffv1", "-enc_time_base", "-1", "-c:a", "copy", str(result)]
    assert subprocess.run(after, stdin=process.stdout).returncode == 0
    assert (before.wait(), process.wait()) == (0, 0)
    video = clips.read(result)
    assert [time - video.times[0] for time in video.times] == clips.read(clip).times  # its sound begins before 0
    assert [data for _, data in video.audio[0]] == [data for _, data in clips.read(clip).audio[0]]


def test_a_live_video_comes_out_as_it_comes_in():
    """Every frame while the sender is still at it, long before the end."""
    process = start("-", "-d", "winter", "-o", "-")
    sent = received = 0
    progress, kept_back = threading.Condition(), []

    def may_send() -> bool:
        """The usual is 2 frames under way; encoders and containers by themselves keep more than 10."""
        return sent - received < (5 if received else 40)

    def send() -> None:
        nonlocal sent
        options = {"flush_packets": "1", "cluster_time_limit": "0"}
        with av.open(process.stdin, "w", format="matroska", options=options) as out:
            stream = out.add_stream("libx264", rate=10, options={"tune": "zerolatency"})
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for index in range(100):
                with progress:
                    if not progress.wait_for(may_send, 60):
                        kept_back.append(sent - received)
                        break
                    sent += 1
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), index, np.uint8), format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, 10)
                out.mux(stream.encode(frame))
                process.stdin.flush()
        process.stdin.close()

    sender = threading.Thread(target=send)
    sender.start()
    options = {"fpsprobesize": "0", "analyzeduration": "100000", "probesize": "2000"}
    with av.open(process.stdout, container_options=options, buffer_size=64) as container:
        for _ in container.decode(video=0):
            with progress:
                received += 1
                progress.notify()
    sender.join()
    assert kept_back == []
    assert received == sent == 100
    assert process.wait(timeout=180) == 0


def test_a_reader_that_leaves_early_is_no_error(clip):
    process = start(clip, "-d", "winter", "-o", "-", STAND_IN_SECONDS="0.1")
    assert process.stdout.read(100)
    process.stdout.close()
    assert process.stderr.read().decode().count("error") == 0
    assert process.wait(timeout=180) == 141  # as of a program that SIGPIPE has ended


def test_broken_input(clip, tmp_path):
    whole = clips.make_clip(tmp_path / "long.mkv", frames=60).read_bytes()
    code, out, err = run("-", "-d", "winter", "-o", "-", data=whole[: len(whole) // 2])
    assert (code, "damaged or cut off" in err) == (1, True), err
    assert 0 < len(content(out, tmp_path).times) < 60
    for data, fact in (
        (b"", "nothing came from standard input"),
        (b"#EXTM3U\nhttp://127.0.0.1/x.ts\n" * 99, "is not a video that can be read from a pipe"),
        (b"\0\0\0\x18ftypisom" + bytes(999), "an mp4 or mov cannot be read from a pipe"),
    ):
        code, out, err = run("-", "-d", "winter", "-o", "-", data=data)
        assert (code, out) == (2, b""), err
        assert fact in err


def test_what_a_pipe_cannot_do_is_refused(clip, tmp_path):
    for sources, output, options, fact in (
        (["-"], None, {}, "needs a name for its result"),
        (["-", str(clip)], tmp_path, {}, "there are 2 inputs"),
        ([str(clip)] * 2, Path("-"), {}, "there are 2 inputs"),
        ([str(clip)], Path("-"), {"overwrite": True}, "--overwrite does not go with standard output"),
        ([str(clip)], Path("-"), {"resume": True}, "--resume does not go with standard output"),
        (["-"], Path("-"), {"start": 1.0}, "--start does not go with standard input"),
    ):
        with pytest.raises(InputError, match=fact):
            check_pipes(sources, output, VideoOptions(**options))
    for arguments, fact in (
        (["-", "-o", "-", "--ray", "local"], "--ray does not go with standard input"),
        ([clip.parent, "-o", "-"], "standard output takes one video"),
    ):
        code, out, err = run(*arguments, "-d", "winter")
        assert_refused((code, out.decode(), err), 2, fact)


def test_a_terminal_is_no_pipe(clip):
    """Neither a keyboard nor a screen takes a video."""
    screen, terminal = pty.openpty()
    for arguments, ends in (
        (["-", "-o", "x.mkv"], {"stdin": terminal, "stdout": subprocess.PIPE}),
        ([clip, "-o", "-"], {"stdin": subprocess.DEVNULL, "stdout": terminal}),
    ):
        command = [sys.executable, "-c", STAND_IN, *map(str, arguments), "-d", "winter"]
        done = subprocess.run(command, **ends, stderr=subprocess.PIPE, text=True, timeout=180)
        assert done.returncode == 2
        assert "is a terminal" in done.stderr
    os.close(terminal)
    os.close(screen)


@pytest.mark.parametrize("stalled", ["sender", "reader"])
def test_a_stop_ends_it_though_the_other_side_has_stalled(stalled, clip, tmp_path):
    data = clip.read_bytes()
    if stalled == "sender":
        process = start("-", "-d", "winter", "-o", "-")
        process.stdin.write(data[: len(data) * 2 // 3])
        process.stdin.flush()
        assert process.stdout.read(100)
    else:
        big = clips.make_clip(tmp_path / "big.mkv", frames=40, size=(640, 480), ramp=True)
        process = start(big, "-d", "winter", "-o", "-", "--codec", "lossless")
        assert process.stdout.read(100)  # and no more
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=180) == 130
    told = process.communicate()[1]
    assert b"stopped by you" in told
    assert b"Traceback" not in told, told.decode()


def test_standard_output_that_is_full_is_named(clip):
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-c", STAND_IN, str(clip), "-o", "-", "-d", "winter"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=180)
    assert (done.returncode, "error: standard output has no room for the result" in done.stderr) == (1, True), done
