"""Translating on a real Ray cluster of two nodes, each with one processor, on this machine."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import clips
import fsspec
import numpy as np
import pytest

from dsmap.common.images import write_rgb
from dsmap.errors import InputError
from dsmap.runtime.cluster.connection import load_ray
from dsmap.runtime.cluster.on_ray import OnRay
from dsmap.runtime.jobs.batch import translate_videos
from dsmap.runtime.jobs.batch_report import JobOutcome, JobProgress, ModelLoaded

NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
LOSSLESS = {"domain": "winter", "codec": "lossless"}


STORE = """
import os
from fsspec.implementations.local import LocalFileSystem

class TestStore(LocalFileSystem):
    protocol = "teststore"

    @classmethod
    def _strip_protocol(cls, path):
        inside = str(path).partition("teststore://")[2].strip("/")
        return os.path.join(os.environ["TESTSTORE"], inside) if inside else str(path)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Iterator[Path]:
    """An object store that fsspec knows as teststore://, here and in processes that are started from here."""
    folder, package = tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("package")
    (package / "teststore.py").write_text(STORE)
    (package / "teststore-1.dist-info").mkdir()
    (package / "teststore-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: teststore\nVersion: 1\n")
    (package / "teststore-1.dist-info" / "entry_points.txt").write_text(
        "[fsspec.specs]\nteststore = teststore:TestStore\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(package))
        patch.setenv("TESTSTORE", str(folder))
        patch.syspath_prepend(package)
        fsspec.register_implementation("teststore", "teststore.TestStore", clobber=True)
        yield folder


@pytest.fixture(scope="module")
def cluster(store):
    load_ray()
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args=NODE)
    started.add_node(**NODE)
    yield started
    started.shutdown()


@pytest.fixture
def on_ray(cluster) -> OnRay:
    return OnRay(cluster.address, segment=2)


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """8 seconds with sound, keyframes every 0.4 s."""
    return clips.make_clip(tmp_path_factory.mktemp("film") / "film.mkv", frames=240, audio=("aac",), audio_seconds=8)


@pytest.fixture(scope="module")
def plain(film, tiny_bundle, tmp_path_factory) -> clips.Video:
    """The film as the one-machine job translates it."""
    output = tmp_path_factory.mktemp("plain") / "film.mkv"
    translate_videos(film, output, **LOSSLESS, model=tiny_bundle)
    return clips.read(output)


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
    batch = translate_videos(film, tmp_path / "film.mkv", **LOSSLESS, model=tiny_bundle, run=on_ray)
    assert batch.complete
    assert batch.facts["ray"]["workers"] == 2
    assert same(clips.read(tmp_path / "film.mkv"), plain)
    assert [path.name for path in tmp_path.iterdir()] == ["film.mkv"]


def test_a_node_that_is_killed_loses_nothing(tmp_path, cluster, on_ray, film, plain, tiny_bundle):
    node = cluster.add_node(**NODE)
    killed = []

    def kill(event):
        if isinstance(event, JobProgress) and not killed:
            killed.append(event.done)
            cluster.remove_node(node, allow_graceful=False)

    others = [clips.make_clip(tmp_path / f"{number}.mp4", frames=24) for number in range(4)]
    batch = translate_videos(
        [film, *others], tmp_path / "out", **LOSSLESS, model=tiny_bundle, on_event=kill, run=on_ray
    )
    assert killed
    assert batch.complete, batch.errors
    assert same(clips.read(tmp_path / "out" / "film-winter.mkv"), plain)


def test_a_thousand_small_pictures(tmp_path, on_ray, tiny_bundle):
    (tmp_path / "in").mkdir()
    picture = np.random.default_rng(0).integers(0, 255, (16, 24, 3), np.uint8)
    for number in range(1000):
        write_rgb(tmp_path / "in" / f"{number:04}.png", picture)
    (tmp_path / "in" / "0500.png").write_bytes(b"no picture")
    batch = translate_videos(tmp_path / "in", tmp_path / "out", domain="winter", model=tiny_bundle, run=on_ray)
    report = batch.outcomes[0].report
    assert report is not None
    assert (report.frames, report.frames_expected, len(report.failed)) == (999, 1000, 1)
    assert len(list((tmp_path / "out").iterdir())) == 999


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
    for _ in range(600):
        if list(output.parent.glob(f"{output.name}.parts/segments/part-*.json")):
            return
        time.sleep(0.05)
    raise AssertionError("no segment was done in half a minute")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_stopped_is_resumed(tmp_path, cluster, film, plain, tiny_bundle, number):
    output = tmp_path / "film.mkv"
    options = ("-d", "winter", "-m", tiny_bundle, "--codec", "lossless", "--ray", cluster.address, "--segment", "1s")
    stopped = command(film, "-o", output, *options)
    wait_for_a_segment(output)
    stopped.send_signal(number)
    code, out, err = ended(stopped)
    assert not output.exists()
    if number == signal.SIGINT:
        assert (code, err.splitlines()) == (
            130,
            ["error: stopped before the end", "What was done is kept: run the same command with --resume to continue."],
        ), (out, err)
    kept = list((tmp_path / "film.mkv.parts" / "segments").glob("part-*"))
    resumed = command(film, "-o", output, *options, "--resume", "--report", tmp_path / "r.json")
    code, out, err = ended(resumed)
    assert (code, "error" in err) == (0, False), (out, err)
    assert kept
    assert json.loads((tmp_path / "r.json").read_text())["complete"]
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
