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
        super().get_file(path, *given, **named)
"""
"""What ends the process that fetches it: inputs whose names hold "deadly"."""


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

    started = Cluster(initialize_head=True, head_node_args=NODE | HEAD)
    started.add_node(**NODE)
    yield started
    started.shutdown()
