"""Files that appear whole or not at all."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dsmap.common.atomic import atomic_write, rename_no_replace, replace_folder
from dsmap.common.files import cut_name, read_regular
from dsmap.common.part_files import part_file, part_folder
from dsmap.common.sampling import even_indices, pick_evenly
from dsmap.common.state_files import lock_folder, open_state, write_state
from dsmap.errors import InputError


def test_a_whole_file_replaces_the_old_one_at_the_end(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("old")
    with atomic_write(path) as beside:
        beside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("old")

    def interrupted() -> None:
        with atomic_write(path) as beside:
            beside.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link_and_its_file_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    file, link = tmp_path / "there" / "report.json", tmp_path / "link.json"
    link.symlink_to(file)
    with atomic_write(link) as beside:
        beside.write_text("new")
    assert link.is_symlink()
    assert file.read_text() == "new"


def test_what_is_no_file_is_written_to_as_it_is(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with atomic_write(pipe) as beside:
        beside.write_text("new")
    assert os.read(reader, 10) == b"new"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)  # not replaced by a file: as root that would be the end of /dev/null


def test_a_folder_that_is_missing_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "missing" / "report.json") as beside:
        Path(beside).write_text("new")


def test_evenly_spread():
    assert even_indices(10, 4) == [0, 2, 5, 7]
    assert even_indices(3, 5) == [0, 1, 2]
    assert even_indices(0, 5) == []
    assert pick_evenly("abcdefghij", 4) == ["a", "c", "f", "h"]


def test_a_temporary_is_new_unforeseeable_and_short(tmp_path):
    final = tmp_path / ("x" * 250 + ".mp4")
    one, other = part_file(final), part_file(final)
    assert one != other
    assert {one.parent, other.parent} == {tmp_path}
    assert one.suffix == ".mp4"
    assert max(len(path.name) for path in (one, other)) <= 100


def test_a_file_with_the_longest_name_can_be_finished(tmp_path):
    final = tmp_path / ("ü" * 125 + ".json")  # 255 bytes
    with atomic_write(final) as beside:
        beside.write_text("done")
    assert final.read_text() == "done"


@pytest.mark.parametrize("inside", [True, False], ids=["replaced", "new"])
def test_a_folder_appears_whole_and_what_was_there_goes(tmp_path, inside):
    final = tmp_path / "model"
    if inside:
        final.mkdir()
        (final / "old").write_text("old")
    part = part_folder(final)
    (part / "new").write_text("new")
    replace_folder(part, final)
    assert [path.name for path in final.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [final]


def test_one_whole_folder_is_under_the_name_wherever_replacing_is_killed(tmp_path):
    """The process ends before each system call that renames or removes, in turn."""
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom dsmap.common.atomic import replace_folder\n"
        "from dsmap.common.part_files import part_folder\n"
        "final, left = Path(sys.argv[1]), int(sys.argv[2])\n"
        "def hook(event, arguments):\n"
        "    global left\n"
        "    if event in ('os.rename', 'os.remove', 'os.rmdir', 'shutil.rmtree', 'ctypes.dlsym', 'os.mkdir'):\n"
        "        left -= 1\n"
        "        if left < 0: os._exit(9)\n"
        "part = part_folder(final)\n(part / 'a').write_text('new')\n(part / 'b').write_text('new')\n"
        "sys.addaudithook(hook)\nreplace_folder(part, final)"
    )
    for number in range(50):
        folder = tmp_path / str(number)
        final = folder / "model"
        final.mkdir(parents=True)
        for name in ("a", "b"):
            (final / name).write_text("old")
        done = subprocess.run([sys.executable, "-c", code, str(final), str(number)])
        assert len({(final / name).read_text() for name in ("a", "b")}) == 1  # all old, or all new
        if done.returncode == 0:
            break
        assert done.returncode == 9
    assert 2 < number < 49


@pytest.mark.parametrize("kind", ["link", "hard to nothing", "folder", "pipe"])
def test_bookkeeping_is_never_written_through_what_is_no_regular_file(tmp_path, kind):
    precious, path = tmp_path / "precious.txt", tmp_path / "job.json"
    precious.write_text("precious")
    if kind == "link":
        path.symlink_to(precious)
    elif kind == "hard to nothing":
        path.symlink_to(tmp_path / "missing")
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    for work in (lambda: write_state(path, "ours"), lambda: open_state(path, "a"), lambda: held_by(path)):
        with pytest.raises(InputError):
            work()
    assert precious.read_text() == "precious"
    assert not (tmp_path / "missing").exists()
    assert {entry.name for entry in tmp_path.iterdir()} == {"precious.txt", "job.json"}


def held_by(lock: Path) -> None:
    folder = lock.parent
    lock.rename(folder / ".lock")
    try:
        with lock_folder(folder):
            pass
    finally:
        (folder / ".lock").rename(lock)


def test_bookkeeping_is_replaced_and_appended_to(tmp_path):
    path = tmp_path / "log.jsonl"
    write_state(path, "one\n")
    with open_state(path, "a") as file:
        file.write("two\n")
    assert path.read_text() == "one\ntwo\n"
    write_state(path, b"three\n")
    assert path.read_text() == "three\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_keeps_others_out_and_what_is_in_its_file(tmp_path):
    (tmp_path / ".lock").write_text("somebody's words")
    code = (
        "import sys; from pathlib import Path; from dsmap.common.state_files import lock_folder\n"
        "with lock_folder(Path(sys.argv[1])): pass"
    )
    with lock_folder(tmp_path):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
        assert "another process is working in" in done.stderr
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 0
    assert (tmp_path / ".lock").read_text() == "somebody's words"


def test_reading_has_a_limit_and_waits_for_nothing(tmp_path):
    (tmp_path / "small").write_bytes(b"1234")
    (tmp_path / "link").symlink_to(tmp_path / "small")
    assert read_regular(tmp_path / "link", limit=4, what="the note") == b"1234"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    for name, word in (
        ("pipe", "pipe or a device"),
        ("zeros", "pipe or a device"),
        ("round", "cannot read"),
        ("missing", "No such file"),
        (".", "a folder"),
        ("n" * 5000, "too long"),
        ("nul\0", "null"),
    ):
        with pytest.raises(InputError, match=word):
            read_regular(tmp_path / name, limit=4, what="the note")
    with pytest.raises(InputError, match="4 bytes, expected at most 3"):
        read_regular(tmp_path / "small", limit=3, what="the note")


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("taken", ["file", "folder", "link", None])
def test_a_name_that_is_taken_is_not_renamed_over(tmp_path, kind, taken, monkeypatch):
    for simple in (False, True):
        part, final = tmp_path / f"part{simple}", tmp_path / f"final{simple}"
        part.mkdir() if kind == "folder" else part.write_text("new")
        if taken == "file":
            final.write_text("precious")
        elif taken == "folder":
            final.mkdir()
            (final / "x").write_text("precious")
        elif taken == "link":
            final.symlink_to(tmp_path / "missing")
        if simple:  # a system that cannot do it in one step
            monkeypatch.setattr("dsmap.common.atomic._rename", lambda *_: False)
        if taken is None:
            rename_no_replace(part, final)
            assert (final.is_dir(), part.exists()) == (kind == "folder", False)
        else:
            with pytest.raises(FileExistsError):
                rename_no_replace(part, final)
            assert part.exists()
            assert os.path.lexists(final)


def test_names_are_cut_between_characters():
    assert cut_name("abc", 3) == "abc"
    assert [cut_name("aü雪", most) for most in range(7)] == ["", "a", "a", "aü", "aü", "aü", "aü雪"]
    assert cut_name(os.fsdecode(b"\xff\xfe\xfd"), 2) == os.fsdecode(b"\xff\xfe")  # no UTF-8
