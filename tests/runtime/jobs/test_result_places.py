"""Results under names that exist already: nothing is written through a link, and no pipe is waited for."""

import os
import sys

import clips
import numpy as np
import pytest

from dsmap.common.images import write_rgb
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.jobs.images import translate_folder, translate_image
from dsmap.runtime.jobs.plan import plan_jobs
from dsmap.runtime.jobs.report import JobReport
from dsmap.runtime.jobs.video import translate_video

PIXELS = np.full((16, 16, 3), 90, np.uint8)


def inverted(rgb):
    return 255 - rgb


@pytest.fixture
def images(tmp_path):
    """A folder of two images; the results go to the folder `out` beside it."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    for name in ("a.png", "b.png"):
        write_rgb(tmp_path / "in" / name, PIXELS)
    return tmp_path / "in"


def translated(images, **options) -> JobReport:
    return translate_folder(images, images.with_name("out"), inverted, **options)


@pytest.mark.parametrize("options", [{"overwrite": True}, {"resume": True}], ids=["--overwrite", "--resume"])
@pytest.mark.parametrize("there", [pytest.param(kind, id=kind) for kind in ("a link to nothing", "a pipe", "a folder")])
def test_what_is_no_file_is_told_before_the_work(images, there, options):
    place = images.with_name("out") / "b.png"
    if there == "a pipe":
        if sys.platform == "win32":
            pytest.skip("Windows has no pipes in folders")
        os.mkfifo(place)
    elif there == "a folder":
        place.mkdir()
    else:
        place.symlink_to(images.with_name("elsewhere.png"))
    with pytest.raises(InputError, match=r"b\.png is .*nothing is written through it"):
        translated(images, **options)
    assert [path.name for path in images.with_name("out").iterdir()] == ["b.png"]
    assert not images.with_name("elsewhere.png").exists()


def test_a_link_to_a_file_is_a_result_that_stays_or_is_refused(images):
    kept = images.with_name("kept.png")
    write_rgb(kept, PIXELS)
    before = kept.read_bytes()
    (images.with_name("out") / "b.png").symlink_to(kept)
    assert translated(images, resume=True).resumed_frames == 1
    with pytest.raises(InputError, match="is a link"):
        translated(images, overwrite=True)
    assert kept.read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes in folders")
@pytest.mark.parametrize("suffix", [".png", ".mp4"])
def test_a_single_result_is_no_pipe(images, suffix):
    output = images.with_name(f"result{suffix}")
    os.mkfifo(output)
    source = images / "a.png" if suffix == ".png" else clips.make_clip(images / "c.mp4", frames=2)
    job = translate_image if suffix == ".png" else translate_video
    with pytest.raises(InputError, match="is a pipe or a device"):
        job(source, output, inverted, overwrite=True)


def test_a_link_that_leads_nowhere_exists_already(images):
    output = images.with_name("result.mp4")
    output.symlink_to(images / "nowhere.mp4")
    with pytest.raises(InputError, match="exists already"):
        translate_video(clips.make_clip(images / "c.mp4", frames=2), output, inverted)


def test_a_folder_named_like_a_numbered_image_is_told_before_the_work(images):
    (images.with_name("out") / "00002.png").mkdir()
    frames = []
    with pytest.raises(InputError, match=r"00002\.png is a folder"):
        translate_video(
            clips.make_clip(images / "c.mp4", frames=3),
            images.with_name("out") / "%05d.png",
            lambda rgb: frames.append(rgb) or rgb,
            overwrite=True,
        )
    assert not frames


def test_what_another_process_makes_meanwhile_stays(images):
    def while_another_writes(rgb):
        for path in (images.with_name("one.png"), images.with_name("out") / "a.png"):
            path.write_bytes(b"theirs")
        return rgb

    with pytest.raises(DsmapError, match=r"one\.png was created meanwhile"):
        translate_image(images / "a.png", images.with_name("one.png"), while_another_writes)
    (images.with_name("out") / "a.png").unlink()
    with pytest.raises(DsmapError, match=r"a\.png was created meanwhile"):
        translate_folder(images, images.with_name("out"), while_another_writes)
    assert (images.with_name("out") / "a.png").read_bytes() == images.with_name("one.png").read_bytes() == b"theirs"


@pytest.mark.parametrize("text", ["admin:hunter2@10.0.0.7/yard", "admin:hun/ter2@cam.local:554", "a.b:hunter2@h"])
def test_an_address_without_its_scheme_is_not_quoted(text, tmp_path):
    with pytest.raises(InputError, match="without a scheme") as caught:
        plan_jobs([text], tmp_path, "winter")
    assert "ter2" not in str(caught.value)


@pytest.mark.parametrize("text", ["a@b.mp4", "C:\\films\\a@b.mp4", "c:/films/a@b.mp4", "10:30.mp4"])
def test_what_reads_like_a_file_is_named(text, tmp_path):
    with pytest.raises(InputError, match="does not exist") as caught:
        plan_jobs([text], tmp_path, "winter")
    assert text in str(caught.value)
