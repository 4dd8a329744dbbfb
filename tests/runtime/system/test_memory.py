"""The memory that a translation needs beside the memory that is there."""

import re
from pathlib import Path

import pytest

from dsmap.common.memory import available_bytes
from dsmap.errors import InputError
from dsmap.runtime.system.memory import check_memory, translation_bytes

NETWORK = {
    "batch": 1,
    "bytes_of": lambda height, width: translation_bytes(height, width, batch=1, dim=16),
    "multiple_of": 8,
    "minimum": 16,
}
GB = 10**9


def test_the_estimate_is_what_was_measured():
    assert 6.5 * GB < translation_bytes(3000, 4000, batch=1, dim=16) < 7.5 * GB
    assert translation_bytes(8, 8, batch=3, dim=2) == 6 * translation_bytes(8, 8, batch=1, dim=1)


@pytest.mark.parametrize(("height", "width"), [(8192, 14563), (3000, 4000), (4000, 3000), (200, 30000)])
def test_the_advised_height_fits(height, width):
    with pytest.raises(InputError) as caught:
        check_memory(height, width, available=2 * GB, **NETWORK)
    assert f"{width}x{height} needs about" in caught.value.fact
    assert "2.0 GB are available" in caught.value.fact
    advised = int(re.search(r"--height (\d+) or less", caught.value.advice)[1])
    assert advised > height / 10
    check_memory(advised, round(width * advised / height), available=2 * GB, **NETWORK)
    with pytest.raises(InputError):  # and not much smaller than it need be
        check_memory(round(advised * 1.1), round(width * advised * 1.1 / height), available=2 * GB, **NETWORK)


def test_no_height_is_advised_where_none_fits():
    with pytest.raises(InputError) as caught:
        check_memory(1080, 1920, available=-5, **NETWORK)
    assert "0.0 GB are available" in caught.value.fact
    assert "--height" not in caught.value.advice


def test_padding_counts():
    exact = translation_bytes(16, 24, batch=1, dim=16)
    check_memory(16, 17, available=exact, **NETWORK)
    check_memory(1, 17, available=exact, **NETWORK)
    with pytest.raises(InputError):
        check_memory(17, 17, available=exact, **NETWORK)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_available_is_the_least_of_the_machine_and_the_groups(tmp_path: Path):
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    assert available_bytes(proc, groups) is None  # not Linux
    write(proc / "meminfo", "MemTotal: 9000000 kB\nMemAvailable: 5000000 kB\n")
    assert available_bytes(proc, groups) == 5000000 * 1024
    write(proc / "self" / "cgroup", "4:memory:/other\n0::/outer/inner\n")
    assert available_bytes(proc, groups) == 5000000 * 1024
    write(groups / "outer" / "inner" / "memory.max", "max\n")
    write(groups / "outer" / "inner" / "memory.current", "100\n")
    assert available_bytes(proc, groups) == 5000000 * 1024
    write(groups / "outer" / "memory.max", "2000000\n")
    write(groups / "outer" / "memory.current", "1500000\n")
    assert available_bytes(proc, groups) == 500000
    write(groups / "outer" / "memory.stat", "anon 1200000\ninactive_file 300000\n")
    assert available_bytes(proc, groups) == 800000
