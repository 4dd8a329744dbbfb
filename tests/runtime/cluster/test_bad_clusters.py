"""What is wrong with a cluster is said in two lines, before any work."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import clips
import pytest
from fake_hub import FakeHub

from dsmap import __version__
from dsmap.errors import InputError
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.cluster.connection import load_ray
from dsmap.runtime.cluster.look import look_function
from dsmap.runtime.cluster.nodes import Share
from dsmap.runtime.cluster.on_ray import OnRay
from dsmap.runtime.jobs.batch import translate_videos

ROOT = Path(__file__).parents[3]
MODEL = "hf:someone/tiny"
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}


@pytest.fixture(scope="module")
def cluster():
    load_ray()
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args=NODE)
    yield started
    started.shutdown()


def refused(output: Path, on_ray: OnRay, **options) -> InputError:
    """The error of a run, which has left nothing."""
    film = clips.make_clip(output.parent / "film.mp4", frames=3)
    with pytest.raises(InputError) as caught:
        translate_videos(film, output, domain="winter", **options, run=on_ray)
    assert not output.exists()
    assert {path.name for path in output.parent.iterdir()} <= {"film.mp4", "shadow"}
    return caught.value


@pytest.mark.parametrize(
    ("address", "fact"),
    [
        ("127.0.0.1:1", "the Ray cluster at 127.0.0.1:1 cannot be reached: Connection refused"),
        ("ray://127.0.0.1:1", "the Ray cluster at ray://127.0.0.1:1 cannot be reached: Connection refused"),
        ("somewhere", "--ray somewhere is not an address of a cluster"),
    ],
)
def test_no_cluster_there(tmp_path, address, fact):
    assert refused(tmp_path / "out.mp4", OnRay(address)).fact == fact


NOT_RAY = """
import sys
from dsmap.runtime.cluster import connection
from dsmap.tools.video import main
connection.CONNECT_SECONDS, connection._QUIET_SECONDS = 2, 1
main()
"""


def test_something_else_listens_there(tmp_path, tiny_bundle):
    """In a process of its own: Ray goes on trying. That the process ends at once is part of the test."""
    clips.make_clip(tmp_path / "film.mp4", frames=3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        line = ["film.mp4", "-d", "winter", "-m", tiny_bundle, "-o", "out.mp4", "--ray", address]
        done = subprocess.run(
            [sys.executable, "-c", NOT_RAY, *line], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if not line.startswith("[")] == [  # "[": Ray's own
        f"waiting for {address} to answer as a Ray cluster, for 2 s at most",
        f"error: what listens at {address} did not answer as a Ray cluster within 2 s",
        "Check the address: the head node's port is 6379, or 10001 after ray://",
    ]
    assert os.listdir(tmp_path) == ["film.mp4"]


def test_a_node_that_may_only_read_the_output_folder(tiny_bundle):
    """Where nobody may write, not even root. This is what a node runs."""
    paths = {"inputs": [], "tokens": ["/proc/version"], "stored_inputs": [], "stored_tokens": []}
    model = {"model": str(tiny_bundle), "remote": None, "fingerprint": Bundle.open(tiny_bundle).fingerprint}
    fact, advice = look_function()({"version": __version__, **model, **paths})
    assert fact.startswith("NODE cannot write into /proc: ")
    assert advice == "use storage that all nodes mount under the same path"


def test_auto_without_a_cluster(tmp_path, monkeypatch):
    monkeypatch.setattr("dsmap.runtime.cluster.connection._address_on_this_machine", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    error = refused(tmp_path / "out.mp4", OnRay("auto"))
    assert error.fact == "no Ray cluster runs on this machine, and $RAY_ADDRESS is not set"


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError) as caught:
        load_ray()
    assert (caught.value.fact, caught.value.advice) == (
        "Ray is not installed, and --ray needs it",
        "pip install 'dsmap[ray]'",
    )


def test_no_node_has_so_much(tmp_path, cluster, tiny_bundle):
    error = refused(tmp_path / "out.mp4", OnRay(cluster.address, cpus_per_worker=8), model=tiny_bundle)
    assert error.fact.endswith("has 8 CPUs and 0 GPUs for a worker: the largest have 1 CPUs, 0 GPUs")


def test_fractions_of_gpus_share_one():
    assert Share(1, 0.5).fits({"CPU": 8, "GPU": 2}) == 4
    assert Share(1, 0.4).fits({"CPU": 8, "GPU": 2}) == 4
    assert Share(1, 2).fits({"CPU": 8, "GPU": 3}) == 1
    assert Share(4, 0).fits({"CPU": 7.0}) == 1
    assert Share(0.5, 0).fits({"CPU": 2}) == 4


@pytest.mark.parametrize(
    ("code", "fact"),
    [
        ("raise ModuleNotFoundError('no dsmap', name='dsmap')", "dsmap is not installed on the node "),
        ("__version__ = '0.0.1'\n__path__ = [{!r}]", "has dsmap 0.0.1, here it is "),
    ],
)
def test_a_node_without_this_dsmap(tmp_path, cluster, tiny_bundle, monkeypatch, code, fact):
    shadow = tmp_path / "shadow" / "dsmap"
    shadow.mkdir(parents=True)
    (shadow / "__init__.py").write_text(code.format(str(ROOT / "dsmap")))
    monkeypatch.setenv("PYTHONPATH", str(shadow.parent))
    monkeypatch.chdir(tmp_path)  # workers import from the folder of the command first
    node = cluster.add_node(**NODE)
    try:
        assert fact in refused(tmp_path / "out.mp4", OnRay(cluster.address), model=tiny_bundle).fact
    finally:
        cluster.remove_node(node)


def test_workers_that_do_not_see_the_output(tmp_path, cluster, tiny_bundle):
    """/proc/self/cwd is another folder for every process, as a disk of its own is for every machine."""
    clips.make_clip(tmp_path / "film.mp4", frames=3)
    line = [sys.executable, "-m", "dsmap.tools.video", "film.mp4", "-d", "winter", "-m", str(tiny_bundle)]
    for options, fact in (
        (["-o", "/proc/self/cwd/out.mp4"], "does not see the output folder /proc/self/cwd as it is here"),
        (["-o", str(tmp_path / "out.mp4")], None),
    ):
        if fact is None:
            line[3] = "/proc/self/cwd/film.mp4"
            fact = "does not see the input /proc/self/cwd/film.mp4"
        line_here = [*line, *options, "--ray", cluster.address]
        done = subprocess.run(line_here, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 2, done
        assert fact in done.stderr.splitlines()[0]
        assert len(done.stderr.splitlines()) == 2
    assert os.listdir(tmp_path) == ["film.mp4"]


def test_a_cluster_of_another_version(tmp_path, cluster, tiny_bundle):
    """The versions that the cluster tells are changed to those that an older one would tell."""
    known = tell_versions(cluster, b'{"ray_version": "2.9.0", "python_version": "3.9.1", "ray_init_cluster": false}')
    try:
        error = refused(tmp_path / "out.mp4", OnRay(cluster.address), model=tiny_bundle)
        assert f"the cluster at {cluster.address} runs Ray 2.9.0 on Python 3.9.1, here it is Ray " in error.fact
    finally:
        tell_versions(cluster, known)


def tell_versions(cluster, versions: bytes) -> bytes:
    """Has the cluster tell these to whom connects. Gives what it told before."""
    from ray._raylet import GcsClient

    store = GcsClient(address=cluster.address)
    known = store.internal_kv_get(b"CLUSTER_METADATA", b"cluster")
    store.internal_kv_put(b"CLUSTER_METADATA", versions, True, b"cluster")
    return known


@pytest.fixture
def hub(tiny_bundle, tmp_path, monkeypatch):
    """A hub that has the model, which this machine has pulled; by now the branch means something else."""
    with FakeHub() as server:
        server.commit_here = server.add("someone/tiny", tiny_bundle)
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("DSMAP_CACHE", str(tmp_path / "here"))
        line = [sys.executable, "-m", "dsmap.tools.models", "pull", MODEL]
        subprocess.run(line, check=True, timeout=120, capture_output=True)
        server.commit("someone/tiny", {"README.md": b"gone"})
        yield server


def pulled(cache: Path) -> list[str]:
    return sorted(path.stem for path in (cache / "models" / "someone--tiny").glob("*.json") if path.stem != "revisions")


def translate(tmp_path: Path, cluster, cache: Path, monkeypatch):
    """On a node that has this cache: workers with two processors fit on no other."""
    here = os.environ["DSMAP_CACHE"]
    monkeypatch.setenv("DSMAP_CACHE", str(cache))
    node = cluster.add_node(**NODE | {"num_cpus": 2})
    monkeypatch.setenv("DSMAP_CACHE", here)
    film = clips.make_clip(tmp_path / "film.mp4", frames=3)
    try:
        run = OnRay(cluster.address, cpus_per_worker=2)
        return translate_videos(film, tmp_path / "out.mp4", domain="winter", model=MODEL, run=run)
    finally:
        cluster.remove_node(node)


def test_a_node_pulls_the_commit_that_is_used_here(tmp_path, cluster, hub, monkeypatch):
    batch = translate(tmp_path, cluster, tmp_path / "there", monkeypatch)
    assert batch.complete
    assert pulled(tmp_path / "there") == pulled(tmp_path / "here") == [hub.commit_here]
    assert batch.facts["model_source"] == f"{MODEL}@{hub.commit_here}"


def test_a_node_that_cannot_pull_it(tmp_path, cluster, hub, monkeypatch):
    hub.private.add("someone/tiny")
    with pytest.raises(InputError) as caught:
        translate(tmp_path, cluster, tmp_path / "there", monkeypatch)
    assert " does not have the model: " in caught.value.fact
    assert caught.value.advice == f"run there: dsmap models pull {MODEL}@{hub.commit_here}"
    assert not (tmp_path / "out.mp4").exists()


def test_a_node_that_has_another_model_under_the_same_commit(tmp_path, cluster, hub, monkeypatch):
    there = tmp_path / "there"
    shutil.copytree(tmp_path / "here", there)
    folder = there / "models" / "someone--tiny"
    manifest = folder / hub.commit_here / "bundle.json"
    content = json.loads(manifest.read_text())
    swap_a_hash(content)
    manifest.write_text(json.dumps(content))
    record = folder / f"{hub.commit_here}.json"
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    record.write_text(json.dumps(json.loads(record.read_text()) | {"bundle_sha256": digest}))
    with pytest.raises(InputError, match="is another one than here"):
        translate(tmp_path, cluster, there, monkeypatch)


def swap_a_hash(tree) -> bool:
    """Another hash for the first file that a bundle.json lists."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if key == "sha256":
            tree[key] = value[::-1]
            return True
        if isinstance(value, dict | list) and swap_a_hash(value):
            return True
    return False
