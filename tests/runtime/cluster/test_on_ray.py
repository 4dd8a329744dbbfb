"""Translating on a real Ray cluster of two nodes, each with one processor, on this machine."""

from pathlib import Path

import clips
import pytest

from dsmap.runtime.cluster.connection import load_ray
from dsmap.runtime.cluster.on_ray import OnRay
from dsmap.runtime.jobs.batch import translate_videos
from dsmap.runtime.jobs.batch_report import JobOutcome, ModelLoaded

NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}


@pytest.fixture(scope="module")
def cluster():
    load_ray()
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args=NODE)
    started.add_node(**NODE)
    yield started
    started.shutdown()


@pytest.fixture
def on_ray(cluster) -> OnRay:
    return OnRay(cluster.address)


def hashes(video: Path) -> list[bytes]:
    return [frame.tobytes() for frame in clips.read(video).frames]


def test_twenty_inputs_with_a_bad_one_become_what_they_become_without_a_cluster(tmp_path, on_ray, tiny_bundle):
    inputs = [clips.make_clip(tmp_path / f"{number:02}.mp4", frames=3) for number in range(20)]
    inputs[7].write_bytes(b"no video")
    seen = []
    report = tmp_path / "r.parquet"
    both = {"domain": "winter", "model": tiny_bundle, "codec": "lossless"}
    batch = translate_videos(inputs, tmp_path / "far", **both, report=report, on_event=seen.append, run=on_ray)
    assert [outcome.complete for outcome in batch.outcomes] == [number != 7 for number in range(20)]
    translate_videos(inputs[:3], tmp_path / "near", **both)
    for near in sorted((tmp_path / "near").iterdir()):
        assert hashes(near) == hashes(tmp_path / "far" / near.name)
    assert sum(isinstance(event, ModelLoaded) for event in seen) == 1
    assert sum(isinstance(event, JobOutcome) for event in seen) == 20
