"""A cluster of two nodes and a store. Every test here has a bound: one that waits for ever would cost the run."""

import faulthandler
import signal
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from dsmap.runtime.cluster.connection import load_ray

MOST_SECONDS = 900
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
HEAD = {"_system_config": {"health_check_period_ms": 1000, "health_check_failure_threshold": 3}}
"""A node that is gone is noticed in 3 seconds rather than 15; one that is slow still has three times 10 to answer."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """A test that takes longer fails, and says where it waits. Ray's waits hear signals."""

    def give_up(*_: object) -> None:
        faulthandler.dump_traceback(all_threads=True)
        pytest.fail(f"it took more than {MOST_SECONDS} s", pytrace=True)

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS, 10)  # again, should the first be caught
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


STORE = """
import os
import time
from fsspec.implementations.local import LocalFileSystem

class TestStore(LocalFileSystem):
    protocol = "teststore"

    @classmethod
    def _strip_protocol(cls, path):
        inside = str(path).partition("teststore://")[2].strip("/")
        return os.path.join(os.environ["TESTSTORE"], inside) if inside else str(path)

    def get_file(self, path, *given, **named):
        if "deadly" in path:
            os.kill(os.getpid(), 9)
        while "held" in path and os.path.exists(os.path.join(os.environ["TESTSTORE"], "hold")):
            time.sleep(0.02)
        super().get_file(path, *given, **named)
"""
"""What ends the process that fetches it: inputs whose names hold "deadly". "held" ones wait while there is a `hold`."""
HOLD = """
import os, signal, time
replace = os.replace

def replace_later(source, target, **more):
    name, hold = os.path.basename(os.fspath(target)), os.path.join(os.environ["TESTSTORE"], "hold")
    if name.startswith("part-") and name.endswith(".json") and int(name.split("-")[1].split(".")[0]) > 1:
        while os.path.exists(hold) and not getattr(signal.getsignal(signal.SIGINT), "__self__", None):
            time.sleep(0.02)
    replace(source, target, **more)

os.replace = replace_later
"""
"""While there is a file `hold` beside the store, no more than two segments of a video are finished, unless the process
is asked to stop: a run cannot end before something happens to it."""


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Iterator[Path]:
    """An object store that fsspec knows as teststore://, here and in processes that are started from here."""
    folder, package = tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("package")
    (package / "teststore.py").write_text(STORE)
    (package / "sitecustomize.py").write_text(HOLD)
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


@pytest.fixture
def hold(store) -> Iterator[Path]:
    """Work is held (see `STORE` and `HOLD`) until this file is removed."""
    (store / "hold").touch()
    yield store / "hold"
    (store / "hold").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def cluster(store):
    load_ray()
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args=NODE | HEAD)
    started.add_node(**NODE)
    yield started
    started.shutdown()
