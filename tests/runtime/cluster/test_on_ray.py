"""Translating on a real Ray cluster of two nodes, each with one processor, on this machine."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import clips
import fsspec
import numpy as np
import pytest

from dsmap.common.images import write_rgb
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.cluster import pool
from dsmap.runtime.cluster.connection import load_ray
from dsmap.runtime.cluster.on_ray import OnRay
from dsmap.runtime.cluster.worker import Worker
from dsmap.runtime.jobs.batch import translate_videos
from dsmap.runtime.jobs.batch_report import JobNotice, JobOutcome, ModelLoaded
from dsmap.runtime.jobs.loaded_model import ModelSummary

NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
ROOM = 400_000
"""Bytes of the small disk."""
LOSSLESS = {"domain": "winter", "codec": "lossless"}


@pytest.fixture
def on_ray(cluster) -> OnRay:
    return OnRay(cluster.address, segment=2)


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """8 seconds with sound and subtitles, keyframes every 0.4 s."""
    folder = tmp_path_factory.mktemp("film")
    sound = clips.make_clip(folder / "sound.mp4", frames=240, audio=("aac",), audio_seconds=8)
    with av.open(str(sound)) as source, av.open(str(folder / "film.mkv"), "w") as out:
        streams = {stream: out.add_stream_from_template(stream) for stream in source.streams}
        words = out.add_stream("subrip")
        words.codec_context.subtitle_header = b"[Script Info]\n"
        for at in (500, 2900, 6100):
            packet = av.Packet(f"at {at}".encode())
            packet.stream, packet.time_base = words, Fraction(1, 1000)
            packet.pts, packet.dts, packet.duration = at, at, 1900
            out.mux(packet)
        for packet in source.demux():
            if packet.size:
                packet.stream = streams[packet.stream]
                out.mux(packet)
    return folder / "film.mkv"


@pytest.fixture(scope="module")
def plain(film, tiny_bundle, tmp_path_factory) -> clips.Video:
    """The film as the one-machine job translates it."""
    output = tmp_path_factory.mktemp("plain") / "film.mkv"
    translate_videos(film, output, **LOSSLESS, model=tiny_bundle)
    return clips.read(output)


def subtitles(path: Path) -> list[tuple[Fraction, bytes]]:
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(subtitles=0) if packet.size]
        return [(packet.pts * packet.time_base, bytes(packet)) for packet in packets]


def same(one: clips.Video, other: clips.Video) -> bool:
    frames = len(one.frames) == len(other.frames) and all(map(np.array_equal, one.frames, other.frames))
    return frames and one.times == other.times and one.audio == other.audio


def test_twenty_inputs_with_a_bad_one_become_what_they_become_without_a_cluster(tmp_path, on_ray, tiny_bundle):
    inputs = [clips.make_clip(tmp_path / f"{number:02}.mp4", frames=3) for number in range(20)]
    inputs[7].write_bytes(b"no video")
    seen = []
    both = {**LOSSLESS, "model": tiny_bundle}
    report = tmp_path / "r.parquet"
    batch = translate_videos(inputs, tmp_path / "far", **both, report=report, on_event=seen.append, run=on_ray)
    assert [outcome.complete for outcome in batch.outcomes] == [number != 7 for number in range(20)]
    translate_videos(inputs[:3], tmp_path / "near", **both)
    for near in sorted((tmp_path / "near").iterdir()):
        assert same(clips.read(near), clips.read(tmp_path / "far" / near.name))
    assert sum(isinstance(event, ModelLoaded) for event in seen) == 1
    assert sum(isinstance(event, JobOutcome) for event in seen) == 20
    import pyarrow.parquet as pq

    rows = pq.read_table(report).to_pylist()
    assert [row["complete"] for row in rows] == [number != 7 for number in range(20)]
    assert "is not a video" in rows[7]["error"]


def test_a_film_is_split_and_joined_to_what_one_machine_makes(tmp_path, on_ray, film, plain, tiny_bundle):
    seen, begun = [], []

    def hear(event) -> None:
        seen.append(event)
        begun.append(time.monotonic())

    both = {"model": tiny_bundle, "on_event": hear, "run": on_ray}
    before = time.monotonic()
    batch = translate_videos(film, tmp_path / "film.mkv", **LOSSLESS, **both)
    assert batch.complete
    ended = time.monotonic()
    # From start to outcome: no less than all the progress, no more than the whole call.
    assert begun[-2] - begun[2] <= batch.outcomes[0].report.seconds <= ended - before
    assert batch.facts["ray"]["workers"] == 2
    assert not [event for event in seen if isinstance(event, JobNotice)]
    assert same(clips.read(tmp_path / "film.mkv"), plain)
    assert subtitles(tmp_path / "film.mkv") == subtitles(film)
    assert len(subtitles(film)) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["film.mkv"]


def test_why_a_film_is_not_split_is_said(tmp_path, on_ray, film, tiny_bundle):
    seen = []
    options = {"domain": "winter", "deinterlace": True, "model": tiny_bundle}
    batch = translate_videos(film, tmp_path / "film.mkv", **options, on_event=seen.append, run=on_ray)
    assert batch.complete
    assert [event.line for event in seen if isinstance(event, JobNotice)] == [
        "not split: --deinterlace makes a frame of its neighbours too"
    ]


def test_an_input_that_ends_every_worker_is_given_up(tmp_path, on_ray, store, tiny_bundle):
    (store / "many").mkdir()
    for number in range(40):  # so many that two are done in one go
        write_rgb(store / "many" / f"{number:02}{'-deadly' * (number == 20)}.png", np.zeros((16, 24, 3), np.uint8))
    output = "teststore://many/out"
    batch = translate_videos("teststore://many", output, domain="winter", model=tiny_bundle, run=on_ray)
    assert [str(number) for number, outcome in enumerate(batch.outcomes) if not outcome.complete] == ["20"]
    assert batch.outcomes[20].error.fact.startswith("5 workers were lost while they worked on it: ")
    assert batch.facts["ray"]["lost_workers"] == 5
    assert len(list((store / "many" / "out").iterdir())) == 39


def test_when_no_worker_can_load_the_model_any_more_the_run_ends(tmp_path, on_ray, store, tiny_bundle):
    (store / "one").mkdir()
    write_rgb(store / "one" / "deadly.png", np.zeros((16, 24, 3), np.uint8))
    model = Path(shutil.copytree(tiny_bundle, tmp_path / "model"))

    def lose(event) -> None:
        if isinstance(event, ModelLoaded):
            shutil.rmtree(model)

    with pytest.raises(DsmapError, match="model is not a bundle: it does not exist"):
        translate_videos(
            "teststore://one", "teststore://one/out", domain="winter", model=model, on_event=lose, run=on_ray
        )


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", folder]
    if sys.platform != "linux" or os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_the_disk_of_a_node_is_full(tmp_path, cluster, store, tiny_bundle, small_disk, monkeypatch):
    (store / "large").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (400, 400, 3), np.uint8)
    write_rgb(store / "large" / "input.png", noise)
    write_rgb(store / "large" / "result.png", np.zeros((16, 16, 3), np.uint8))
    clips.make_clip(store / "large" / "video.mp4", frames=400)
    with monkeypatch.context() as patch:
        patch.setenv("TMPDIR", str(small_disk))
        node = cluster.add_node(**NODE | {"num_cpus": 2})
    try:
        run = OnRay(cluster.address, cpus_per_worker=2)
        batch = translate_videos("teststore://large", "teststore://large/out", **LOSSLESS, model=tiny_bundle, run=run)
    finally:
        cluster.remove_node(node)
    large, fine, grown = (outcome.error and outcome.error.fact for outcome in batch.outcomes)
    there = f"on the node {socket.gethostname()}: "
    assert large == f"{there}{small_disk} has no room for an input of 0.5 MB and its result"
    assert fine is None
    assert grown.startswith(f"{there}the disk is full: {small_disk}/video-winter.mkv")
    assert [path.name for path in (store / "large" / "out").iterdir()] == ["result-winter.png"]
    assert not list(small_disk.glob("dsmap-*"))


def busy_worker(node) -> int | None:
    """A worker on the node that is at work on a unit, stopped so that it cannot end it."""
    raylet = node.all_processes["raylet"][0].process.pid
    for task in Path(f"/proc/{raylet}/task").iterdir():
        for pid in map(int, (task / "children").read_text().split()):
            if is_busy(pid):
                os.kill(pid, signal.SIGSTOP)
                if is_busy(pid):
                    return pid
                os.kill(pid, signal.SIGCONT)
    return None


def is_busy(pid: int) -> bool:
    """Ray names processes after what they do."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::Worker.run")
    return False


def test_a_node_that_is_killed_loses_nothing(tmp_path, cluster, on_ray, store, hold, film, plain, tiny_bundle):
    node = cluster.add_node(**NODE)
    killed = []

    def kill() -> None:
        """The node, as soon as a worker on it works; nobody ends its work before."""
        until = time.monotonic() + 120
        while not killed and time.monotonic() < until:
            if pid := busy_worker(node):
                killed.append(pid)
            time.sleep(0.01)
        hold.unlink()
        cluster.remove_node(node, allow_graceful=False)
        for pid in killed:
            os.kill(pid, signal.SIGKILL)

    (store / "held").mkdir()
    shutil.copy(film, store / "held" / "film.mkv")
    clips.make_clip(store / "held" / "0.mp4", frames=24)
    for number in range(1, 12):
        shutil.copy(store / "held" / "0.mp4", store / "held" / f"{number}.mp4")
    killer = threading.Thread(target=kill)
    killer.start()
    output = store / "held" / "out"
    batch = translate_videos("teststore://held", "teststore://held/out", **LOSSLESS, model=tiny_bundle, run=on_ray)
    killer.join()
    assert killed
    assert batch.complete, batch.errors
    assert batch.facts["ray"]["lost_workers"] >= 1
    assert same(clips.read(output / "film-winter.mkv"), plain)
    assert len(list(output.iterdir())) == 13


def test_a_thousand_small_pictures(tmp_path, on_ray, tiny_bundle):
    (tmp_path / "in").mkdir()
    picture = np.random.default_rng(0).integers(0, 255, (16, 24, 3), np.uint8)
    for number in range(1000):
        write_rgb(tmp_path / "in" / f"{number:04}.png", picture)
    (tmp_path / "in" / "0300.png").write_bytes(b"no picture")
    batch = translate_videos(tmp_path / "in", tmp_path / "out", domain="winter", model=tiny_bundle, run=on_ray)
    report = batch.outcomes[0].report
    assert report is not None
    assert (report.frames, report.frames_expected, len(report.failed)) == (999, 1000, 1)
    assert len(list((tmp_path / "out").iterdir())) == 999


def test_workers_that_would_choose_another_precision_are_told_that_of_the_first(
    tmp_path, cluster, hold, film, monkeypatch
):
    """As on nodes with and without a GPU: the segments of a film fit together."""
    loads = tmp_path / "loads"
    loads.mkdir()

    class Mixed(Worker):  # within the test, so that its code travels
        """The first one prefers another precision than the others."""

        def load(self, precision: str) -> ModelSummary | DsmapError:
            prefers = "fp32" if any(loads.iterdir()) else "int8"
            (loads / f"{precision}-{os.getpid()}").touch()
            return super().load(prefers if precision == "auto" else precision)

    def let_go() -> None:
        until = time.monotonic() + 120
        while not any(loads.glob("int8-*")) and hold.exists() and time.monotonic() < until:
            time.sleep(0.05)
        hold.unlink(missing_ok=True)

    monkeypatch.setattr(pool, "Worker", Mixed)
    watcher = threading.Thread(target=let_go)
    watcher.start()
    try:
        batch = translate_videos(film, tmp_path / "film.mkv", run=OnRay(cluster.address, segment=1), **LOSSLESS)
    finally:
        hold.unlink(missing_ok=True)
        watcher.join()
    assert {path.name.split("-")[0] for path in loads.iterdir()} == {"auto", "int8"}
    single = {**LOSSLESS, "precision": batch.facts["precision"]}
    assert batch.facts["precision"] == "int8"
    assert translate_videos(film, tmp_path / "single.mkv", **single).complete
    assert same(clips.read(tmp_path / "film.mkv"), clips.read(tmp_path / "single.mkv"))


def command(*arguments: object, **environment: str) -> subprocess.Popen:
    """dsmap-video, as a process of its own."""
    line = [sys.executable, "-m", "dsmap.tools.video", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **environment})


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    """(exit code, stdout, stderr)"""
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def wait_for_a_segment(output: Path) -> None:
    """Until a segment of the job that writes `output` is done."""
    for _ in range(6000):
        if list(output.parent.glob(f"{output.name}.parts/segments/part-*.json")):
            return
        time.sleep(0.05)
    raise AssertionError("no segment was done in five minutes")


@pytest.mark.parametrize(
    ("number", "stored"), [(signal.SIGKILL, False), (signal.SIGINT, False), (signal.SIGKILL, True)]
)
def test_a_run_that_was_stopped_is_resumed(tmp_path, cluster, store, hold, film, plain, tiny_bundle, number, stored):
    """Also one from an object store to another place there."""
    folder = store / "resumed" if stored else tmp_path
    folder.mkdir(exist_ok=True)
    output, source, written = folder / "film.mkv", film, folder / "film.mkv"
    if stored:
        source, written = "teststore://resumed/source.mkv", "teststore://resumed/film.mkv"
        shutil.copy(film, folder / "source.mkv")
    options = ("-d", "winter", "-m", tiny_bundle, "--codec", "lossless", "--ray", cluster.address, "--segment", "1s")
    stopped = command(source, "-o", written, *options)
    wait_for_a_segment(output)
    stopped.send_signal(number)
    code, out, err = ended(stopped)
    hold.unlink()
    assert not output.exists()
    if number == signal.SIGINT:
        assert (code, err.splitlines()[-2:]) == (  # a line of progress may stand before them
            130,
            ["stopped by you before the end", "What was done is kept: run the same command with --resume to continue."],
        ), (out, err)
    kept = list((folder / "film.mkv.parts" / "segments").glob("part-*"))
    if stored or number == signal.SIGINT:
        here = {**LOSSLESS, "model": tiny_bundle, "run": OnRay(cluster.address, segment=1)}
        with pytest.raises(InputError, match="left finished parts in"):
            translate_videos(source, written, **here)
        assert translate_videos(source, written, **here, resume=True, report=tmp_path / "r.json").complete
    else:  # as commands
        code, out, err = ended(command(source, "-o", written, *options))
        assert (code, "left finished parts in" in err) == (2, True), (out, err)
        resumed = command(source, "-o", written, *options, "--resume", "--report", tmp_path / "r.json")
        code, out, err = ended(resumed)
        assert (code, "error" in err) == (0, False), (out, err)
    assert kept
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["complete"]
    assert report["input"] == str(source)
    assert 0 < report["resumed_frames"] < report["frames"]
    assert same(clips.read(output), plain)
    left = [path for path in (folder / "film.mkv.parts").rglob("*") if path.is_file()]
    assert left == []


@pytest.mark.slow
def test_a_run_whose_cluster_was_lost_is_resumed_on_another(tmp_path, film, plain, tiny_bundle):
    load_ray()
    from ray.cluster_utils import Cluster

    output = tmp_path / "film.mkv"
    options = ("-d", "winter", "-m", tiny_bundle, "--codec", "lossless", "--segment", "1s", "-o", output)
    lost = Cluster(initialize_head=True, head_node_args=NODE)
    stopped = command(film, *options, "--ray", lost.address)
    wait_for_a_segment(output)
    lost.shutdown()
    code, out, err = ended(stopped)
    assert code == 1, (out, err)  # by Ray, which ends what runs on a node with it
    assert not output.exists()
    again = Cluster(initialize_head=True, head_node_args=NODE)
    try:
        code, out, err = ended(command(film, *options, "--ray", again.address, "--resume"))
    finally:
        again.shutdown()
    assert (code, "error" in err) == (0, False), (out, err)
    assert same(clips.read(output), plain)


def test_inputs_and_results_in_an_object_store(tmp_path, on_ray, store, film, plain, tiny_bundle):
    (store / "films").mkdir()
    (store / "films" / "film.mkv").write_bytes(film.read_bytes())
    write_rgb(store / "films" / "a.png", np.zeros((16, 24, 3), np.uint8))
    (store / "films" / "bad.mp4").write_bytes(b"no video")
    inputs, output = "teststore://films", "teststore://films/out"
    report = tmp_path / "r.json"
    batch = translate_videos(
        inputs, output, domain="winter", codec="lossless", model=tiny_bundle, report=report, run=on_ray
    )
    assert [outcome.complete for outcome in batch.outcomes] == [True, False, True], batch.errors
    assert sorted(path.name for path in (store / "films" / "out").iterdir()) == ["a-winter.png", "film-winter.mkv"]
    assert same(clips.read(store / "films" / "out" / "film-winter.mkv"), plain)
    assert str(batch.outcomes[2].report.input) == "teststore://films/film.mkv"
    assert json.loads(report.read_text())["jobs"][0]["output"] == "teststore://films/out/a-winter.png"
    with pytest.raises(InputError, match="exists already"):
        translate_videos("teststore://films/a.png", output, domain="winter", model=tiny_bundle, run=on_ray)
    again = translate_videos(inputs, output, **LOSSLESS, model=tiny_bundle, resume=True, run=on_ray)
    assert len(again.skipped) == 2


def test_memory_is_a_store_of_each_process_alone(on_ray, tiny_bundle):
    fsspec.filesystem("memory").pipe_file("/a.png", b"picture")
    with pytest.raises(InputError, match=r"does not see memory://a\.png"):
        translate_videos("memory://a.png", domain="winter", model=tiny_bundle, run=on_ray)


def test_a_store_without_a_cluster(store, tiny_bundle):
    (store / "b.png").write_bytes(b"picture")
    with pytest.raises(InputError, match="in an object store, which is for --ray"):
        translate_videos("teststore://b.png", domain="winter", model=tiny_bundle)


def test_the_error_of_a_single_input_is_raised(on_ray, store, tiny_bundle):
    (store / "single.mp4").write_bytes(b"no video")
    with pytest.raises(InputError, match="is not a video"):
        translate_videos("teststore://single.mp4", "teststore://out.mp4", **LOSSLESS, model=tiny_bundle, run=on_ray)
