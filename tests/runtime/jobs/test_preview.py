"""The sheet of `dsmap-video --preview`."""

from pathlib import Path

import clips
import numpy as np
import pytest
from commands import call

from dsmap.common.images import read_rgb, write_rgb
from dsmap.runtime import Translator
from dsmap.runtime.jobs.preview import SEEDS, PreviewCell, sheet
from dsmap.runtime.video.reader import VideoReader
from dsmap.tools import video

LABEL = 34


def preview(*arguments: object) -> tuple[int, str, str]:
    return call(video, *arguments, "--domain", "winter", "--backend", "cpu", "--precision", "fp32")


def cells(path: Path, size: tuple[int, int]) -> list[np.ndarray]:
    """The images of a sheet, whose sizes are (width, height)."""
    whole = read_rgb(path)
    rows, columns = whole.shape[0] // (size[1] + LABEL), whole.shape[1] // size[0]
    assert whole.shape == (rows * (size[1] + LABEL), columns * size[0], 3)
    return [
        whole[row * (size[1] + LABEL) :][: size[1], column * size[0] : (column + 1) * size[0]]
        for row in range(rows)
        for column in range(columns)
    ]


def test_the_middle_frame_in_the_styles_there_are(tmp_path, tiny_bundle):
    clips.make_clip(tmp_path / "in.mp4", frames=9)
    code, out, err = preview(tmp_path / "in.mp4", "--model", tiny_bundle, "--preview", tmp_path / "sheet.png")
    assert code == 0, err
    assert f"sheet.png: {2 + len(SEEDS)} images" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "sheet.png"]
    with VideoReader(tmp_path / "in.mp4") as reader:
        frames = [item.rgb.copy() for item in reader if hasattr(item, "rgb")]
    shown = cells(tmp_path / "sheet.png", frames[0].shape[1::-1])
    middle = min(range(9), key=lambda i: np.abs(frames[i].astype(int) - shown[0]).mean())
    assert middle in (4, 5)
    np.testing.assert_array_equal(shown[0], frames[middle])
    with Translator.load(tiny_bundle, domain="winter", backend="cpu", precision="fp32") as translator:
        for style, found in zip((None, *SEEDS), shown[1:], strict=False):
            translator.set_style(style)
            np.testing.assert_array_equal(found, translator(frames[middle]))


def test_an_image_in_a_style_of_ones_own_comes_first(tmp_path, tiny_bundle):
    write_rgb(tmp_path / "in.png", np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8))
    arguments = tmp_path / "in.png", "--model", tiny_bundle, "--seed", 2, "--preview", tmp_path / "sheet.png"
    assert preview(*arguments)[0] == 0
    shown = cells(tmp_path / "sheet.png", (48, 64))
    with Translator.load(tiny_bundle, domain="winter", backend="cpu", precision="fp32", style=2) as translator:
        np.testing.assert_array_equal(shown[1], translator(read_rgb(tmp_path / "in.png")))
    code, _, err = preview(*arguments)
    assert (code, "exists already" in err) == (2, True), err
    assert preview(*arguments, "--overwrite")[0] == 0


def test_what_cannot_be_previewed(tmp_path, tiny_bundle):
    clips.make_clip(tmp_path / "in.mp4", frames=3)
    several = preview(tmp_path / "in.mp4", tmp_path, "--model", tiny_bundle, "--preview", tmp_path / "sheet.png")
    assert (several[0], "--preview shows one input" in several[2]) == (2, True), several
    no_image = preview(tmp_path / "in.mp4", "--model", tiny_bundle, "--preview", tmp_path / "sheet.mp4")
    assert (no_image[0], "cannot write a preview as sheet.mp4" in no_image[2]) == (2, True), no_image
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


@pytest.mark.parametrize("count", [1, 4, 5, 9])
def test_a_sheet_has_rows_of_four(count):
    whole = sheet([PreviewCell(str(i), np.full((90, 1000, 3), i, np.uint8)) for i in range(count)])
    assert whole.shape == (-(-count // 4) * (43 + LABEL), min(count, 4) * 480, 3)


def test_nothing_that_is_read_is_replaced(tmp_path, tiny_bundle):
    for name in ("in.png", "snow.png"):
        write_rgb(tmp_path / name, np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    usual = tmp_path / "in.png", "--model", tiny_bundle, "--style", tmp_path / "snow.png", "--overwrite", "--preview"
    before = (tmp_path / "snow.png").read_bytes()
    for path, words in (("snow.png", "the --style image"), ("in.png", "the input")):
        code, _, err = preview(*usual, tmp_path / path)
        assert (code, words in err) == (2, True), err
    code, _, err = preview(*usual, tiny_bundle / "new.png")
    assert (code, "the model's folder" in err) == (2, True), err
    assert (tmp_path / "snow.png").read_bytes() == before
    code, _, err = preview(*usual, tmp_path / "s.png", "--report", tmp_path / "r.json")
    assert (code, "--report does not go with --preview" in err) == (2, True), err


def test_sequences_and_recordings_that_were_cut_off(tmp_path, tiny_bundle):
    for number in range(1, 4):
        write_rgb(tmp_path / f"{number:03d}.png", np.full((64, 64, 3), 40 * number, np.uint8))
    code, _, err = preview(tmp_path / "%03d.png", "--model", tiny_bundle, "--preview", tmp_path / "sheet.png")
    assert code == 0, err
    assert (cells(tmp_path / "sheet.png", (64, 64))[0] == 40).all()
    clips.make_clip(tmp_path / "in.mkv", frames=60)
    whole = (tmp_path / "in.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) * 3 // 4])
    code, _, err = preview(tmp_path / "cut.mkv", "--model", tiny_bundle, "--preview", tmp_path / "cut.png")
    assert code == 0, err


def test_the_spread_is_that_of_the_option(tmp_path, tiny_bundle):
    write_rgb(tmp_path / "in.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    for spread in (1, 3):
        options = "--style-spread", spread, "--preview", tmp_path / f"{spread}.png"
        assert preview(tmp_path / "in.png", "--model", tiny_bundle, *options)[0] == 0
    once, thrice = (cells(tmp_path / f"{spread}.png", (64, 64)) for spread in (1, 3))
    np.testing.assert_array_equal(once[1], thrice[1])
    assert not np.array_equal(once[-2], thrice[-2])
