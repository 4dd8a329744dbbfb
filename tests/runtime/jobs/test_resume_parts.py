"""The folder of parts beside a result: nothing in it that is not ours is lost, whatever lies there already."""

import json
import os
import shutil
from pathlib import Path

import clips
import numpy as np
import pytest
from stand_in import assert_refused, run

from dsmap.common.images import write_rgb
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.jobs.content_identity import content_identity
from dsmap.runtime.jobs.output_paths import result_names
from dsmap.runtime.jobs.plan import check_jobs_apart, plan_jobs
from dsmap.runtime.jobs.resume import kept_parts, parts_folder
from dsmap.runtime.jobs.video import translate_video

WINTER = ("-d", "winter")


def same(frame: np.ndarray) -> np.ndarray:
    return frame


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return clips.make_clip(tmp_path_factory.mktemp("clip") / "in.mp4", frames=12)


@pytest.fixture
def source(clip: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(clip, tmp_path / "in.mp4"))


def interrupted(source: Path, output: Path, at: int = 8, **options) -> None:
    """A job that fails at a frame, and leaves a finished part."""
    seen: list[int] = []

    def fail(frame: np.ndarray) -> np.ndarray:
        seen.append(1)
        if len(seen) == at:
            raise DsmapError("the GPU fell off", "put it back")
        return frame

    with pytest.raises(DsmapError, match="fell off"):
        translate_video(source, output, fail, made_with={}, **options)


@pytest.mark.parametrize("note", ["in.mp4", "precious.txt", ".in.0123abcd.part.mp4", "../in.mp4", "/etc/hostname"])
@pytest.mark.parametrize("how", [{}, {"overwrite": True}, {"resume": True}])
def test_a_note_never_names_what_is_removed(source: Path, tmp_path: Path, note: str, how: dict):
    before = source.read_bytes()
    for name in ("precious.txt", ".in.0123abcd.part.mp4"):
        (tmp_path / name).write_text("precious")
    parts = tmp_path / "out.mp4.parts"
    parts.mkdir()
    wanted = {"writing": note, "partial": [1, 2], "left": [note, {"name": note}], "finished": {"name": note}}
    (parts / "job.json").write_text(json.dumps(wanted))
    assert translate_video(source, tmp_path / "out.mp4", same, made_with={}, **how).complete
    assert source.read_bytes() == before
    assert names(tmp_path) == [".in.0123abcd.part.mp4", "in.mp4", "out.mp4", "precious.txt"]


@pytest.mark.parametrize(
    "name", [".lock", "job.json", "journal.json", "journal.json.part", "seg-000000.packets", ".video.0123abcd.part.mp4"]
)
@pytest.mark.parametrize("kind", ["link", "dangling", "folder", "pipe"])
def test_nothing_is_written_or_removed_through_what_lies_there(source: Path, tmp_path: Path, name: str, kind: str):
    precious, parts = tmp_path / "precious.txt", tmp_path / "out.mp4.parts"
    precious.write_text("precious")
    parts.mkdir()
    if kind == "folder":
        (parts / name).mkdir()
        (parts / name / "thesis.txt").write_text("precious")
    elif kind == "pipe":
        os.mkfifo(parts / name)
    else:
        (parts / name).symlink_to(precious if kind == "link" else tmp_path / "missing")
    for how in ({}, {"overwrite": True}, {"resume": True}, {"resume": True, "overwrite": True}):
        with pytest.raises(InputError, match="holds something else"):
            translate_video(source, tmp_path / "out.mp4", same, made_with={}, **how)
    assert precious.read_text() == "precious"
    assert names(tmp_path) == ["in.mp4", "out.mp4.parts", "precious.txt"]
    assert names(parts) == [name]


def test_a_link_in_place_of_the_folder_is_refused(source: Path, tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "seg-000000.packets").write_text("precious")
    (tmp_path / "out.mp4.parts").symlink_to(tmp_path / "elsewhere")
    for how in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(InputError):
            translate_video(source, tmp_path / "out.mp4", same, made_with={}, **how)
    with pytest.raises(InputError, match="is a link"), kept_parts(tmp_path / "out.mp4", {}, resume=False):
        pass
    assert (tmp_path / "elsewhere" / "seg-000000.packets").read_text() == "precious"


def test_a_hard_link_keeps_its_other_name(source: Path, tmp_path: Path):
    parts, precious = tmp_path / "out.mp4.parts", tmp_path / "precious.txt"
    parts.mkdir()
    precious.write_text("precious")
    for name in (".lock", "job.json", "journal.json", "seg-000000.packets"):
        os.link(precious, parts / name)
    assert translate_video(source, tmp_path / "out.mp4", same, made_with={}, overwrite=True).complete
    assert precious.read_text() == "precious"


def test_a_journal_that_names_other_files_is_damaged(source: Path, tmp_path: Path):
    interrupted(source, tmp_path / "out.mp4")
    index = tmp_path / "out.mp4.parts" / "journal.json"
    told = json.loads(index.read_text())
    for change in ({"name": "../../in.mp4"}, {"frames": "many"}, {"frames": -1}, {"bytes": None}, {"sha256": 1}):
        index.write_text(json.dumps(told | {"segments": [told["segments"][0] | change]}))
        with pytest.raises(DsmapError, match="is damaged"):
            translate_video(source, tmp_path / "out.mp4", same, made_with={}, resume=True)


def test_an_input_is_never_among_the_parts(source: Path, tmp_path: Path):
    parts = tmp_path / "out.mp4.parts"
    parts.mkdir()
    inside = source.rename(parts / "seg-000000.packets")
    jobs = plan_jobs([str(inside)], tmp_path / "out.mp4", "winter")
    with pytest.raises(InputError, match=r"lies in .*out\.mp4\.parts"):
        check_jobs_apart(jobs, [], [(tmp_path / "model", "the model's folder")])
    code, _, err = run(inside, *WINTER, "-o", tmp_path / "out.mp4", "--overwrite")
    assert (code, "lies in" in err, inside.exists()) == (2, True, True)


def test_a_job_killed_while_tidying_up_is_done_and_its_parts_go(source: Path, tmp_path: Path, monkeypatch):
    arguments = (source, *WINTER, "-o", tmp_path / "out.mp4")
    assert run(*arguments, STAND_IN_CUTS="1", STAND_IN_FAILS_AT="9")[0] == 1
    parts = tmp_path / "out.mp4.parts"
    shutil.copytree(parts, tmp_path / "kept")
    assert run(*arguments, "--resume", STAND_IN_CUTS="1")[0] == 0
    finished = {"left": [], "finished": content_identity(tmp_path / "out.mp4")}
    before = (tmp_path / "out.mp4").read_bytes()
    for gone in ([], ["journal.json"], ["journal.json", "seg-000000.packets"]):
        shutil.copytree(tmp_path / "kept", parts)
        (parts / "job.json").write_text(json.dumps(finished))
        for name in gone:
            (parts / name).unlink()
        code, out, err = run(*arguments, "--resume")
        assert (code, err, "exists and is kept" in out) == (0, "", True)
        assert names(tmp_path) == ["in.mp4", "kept", "out.mp4"]
        assert (tmp_path / "out.mp4").read_bytes() == before


def test_a_file_that_nobody_made_there_is_not_taken_for_the_result(source: Path, tmp_path: Path):
    interrupted(source, tmp_path / "out.mp4")
    (tmp_path / "out.mp4").write_text("precious")
    with pytest.raises(InputError, match="is not what the interrupted job left"):
        translate_video(source, tmp_path / "out.mp4", same, made_with={}, resume=True)
    assert (tmp_path / "out.mp4").read_text() == "precious"


def test_an_input_is_known_by_what_is_in_it(source: Path, tmp_path: Path):
    interrupted(source, tmp_path / "out.mp4")
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(tmp_path, elsewhere, copy_function=shutil.copy)  # other times, as a copy has
    os.utime(elsewhere / "in.mp4", (1, 1))
    copied = (elsewhere / "in.mp4").rename(elsewhere / "again.mp4")
    report = translate_video(copied, elsewhere / "out.mp4", same, made_with={}, resume=True)
    assert (report.complete, report.resumed_frames > 0) == (True, True)
    data = bytearray(source.read_bytes())
    data[len(data) // 2] ^= 1
    source.write_bytes(data)
    with pytest.raises(InputError, match="input's content was"):
        translate_video(source, tmp_path / "out.mp4", same, made_with={}, resume=True)


def test_blocks_of_a_large_file_are_read(tmp_path: Path):
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(3 * 2**30)  # takes no room
    before = content_identity(path)
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"1")
    assert content_identity(path)["sha256"] != before["sha256"]
    assert content_identity(path)["bytes"] == before["bytes"] == 3 * 2**30
    for other in (tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match=r"directory|not a file"):
            content_identity(other)


@pytest.mark.parametrize("stem", ["x" * 246, "ü" * 123, "雪" * 82], ids=["ascii", "two bytes", "three bytes"])
def test_the_longest_names_work_and_resume(source: Path, tmp_path: Path, stem: str):
    output = tmp_path / f"{stem}.mp4"
    assert len(os.fsencode(output.name)) >= 250
    interrupted(source, output)
    assert [path.name for path in tmp_path.iterdir() if path != source] == [parts_folder(output).name]
    assert len(os.fsencode(parts_folder(output).name)) <= 100
    report = translate_video(source, output, same, made_with={}, resume=True)
    assert (report.complete, report.resumed_frames > 0) == (True, True)
    assert names(tmp_path) == sorted(["in.mp4", output.name])
    assert translate_video(source, output.with_suffix(".mkv"), same).complete  # one that cannot be resumed


def test_long_names_that_begin_alike_have_parts_of_their_own(tmp_path: Path):
    folders = {parts_folder(tmp_path / f"{'x' * 200}{number}.mp4") for number in range(10)}
    assert len(folders) == 10


def test_a_result_of_an_input_with_the_longest_name(source: Path, tmp_path: Path):
    source = source.rename(tmp_path / f"{'y' * 251}.mp4")
    code, _, err = run(source, *WINTER)
    assert (code, err) == (0, "")
    (result,) = (path for path in tmp_path.iterdir() if path != source)
    assert result.name.endswith("-winter.mp4")
    assert_refused(run(source, *WINTER, "-o", tmp_path / f"{'y' * 300}.mp4"), 2, "File name too long")


# Names of results that would be one.


def test_no_two_images_of_a_folder_have_one_result(tmp_path: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    for level, name in enumerate(("a.bmp", "a.bmp.png", "a.bmp-2.png", "b.png", "B.PNG")):
        write_rgb(folder / "x.png", np.full((16, 24, 3), 40 * level, np.uint8))
        (folder / "x.png").rename(folder / name)  # what an image is, its content tells
    code, out, err = run(folder, *WINTER, "-o", tmp_path / "out")
    assert (code, err) == (0, "")
    assert "a.bmp becomes a.bmp-3.png" in out
    results = names(tmp_path / "out")
    assert len(results) == 5
    assert {"a.bmp.png", "a.bmp-2.png", "a.bmp-3.png"} < set(results)
    assert len({name.casefold() for name in results}) == 5
    assert {(tmp_path / "out" / name).stat().st_size > 0 for name in results} == {True}
    code, out, _ = run(folder, *WINTER, "-o", tmp_path / "out", "--resume")
    assert (code, "exists and is kept" in out) == (0, True)


def test_results_keep_their_names_whatever_lies_beside():
    images = [Path(name) for name in ("a.tif", "a.tif.png", "z.jpg", "\u00e4.png", "a\u0308.png")]
    assert list(result_names(images).values()) == ["a.tif-2.png", "a.tif.png", "z.jpg", "\u00e4.png", "a\u0308-2.png"]
    long = [Path("x" * 251 + suffix) for suffix in (".bmp", ".tif")]
    found = list(result_names(long).values())
    assert len(set(found)) == 2
    assert max(map(len, found)) <= 255


def test_a_sequence_and_a_folder_never_share_names(tmp_path: Path):
    (tmp_path / "frames").mkdir()
    write_rgb(tmp_path / "frames" / "00001.png", np.zeros((16, 24, 3), np.uint8))
    both = [str(tmp_path / "frames"), str(tmp_path / "frames" / "%05d.png")]
    with pytest.raises(InputError, match="would both write images into"):
        plan_jobs(both, None, "winter")


@pytest.mark.parametrize("role", ["source", "style"])
def test_a_sequence_never_replaces_an_input(source: Path, tmp_path: Path, role: str):
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(1, 4):
        write_rgb(frames / f"{number:05d}.png", np.full((48, 64, 3), 50, np.uint8))
    before = (frames / "00003.png").read_bytes()
    pattern = frames / "%05d.png"
    given = (pattern, *WINTER) if role == "source" else (source, *WINTER, "--style", frames / "00003.png")
    assert_refused(run(*given, "-o", pattern, "--overwrite"), 2, "00003.png is" if role == "style" else ".png is")
    assert (frames / "00003.png").read_bytes() == before
    if role == "source":
        with pytest.raises(InputError, match="is one of the inputs"):
            translate_video(str(pattern), pattern, same, overwrite=True)


def test_a_folder_of_images_goes_on_where_it_was(tmp_path: Path):
    """Killed in the middle: one result is there, one was being written."""
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    for name in ("a.png", "b.png", "c.bmp"):
        write_rgb(folder / "x.png", np.full((16, 24, 3), 40, np.uint8))
        (folder / "x.png").rename(folder / name)
    (out / "a.png").write_text("an earlier result")
    mine = (".a.png.bak", ".a.0123abcd.part.jpg", ".z.0123abcd.part.png", ".a.b.0123abcd.part.png", "notes.txt")
    for name in (".b.0123abcd.part.png", ".c.bmp.fedcba98.part.png", *mine):
        (out / name).write_text("left")
    (out / ".b.aaaaaaaa.part.png").symlink_to(folder / "a.png")
    assert_refused(run(folder, *WINTER, "-o", out), 2, "exists already and is not empty")
    code, told, err = run(folder, *WINTER, "-o", out, "--resume", "--report", tmp_path / "r.json")
    assert (code, err) == (0, "")
    assert "1 results exist already" in told
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["frames"], report["resumed_frames"], report["complete"]) == (3, 1, True)
    assert (out / "a.png").read_text() == "an earlier result"
    assert names(out) == sorted(["a.png", "b.png", "c.bmp.png", ".b.aaaaaaaa.part.png", *mine])
