"""The VapourSynth filter, in VapourSynth itself; skipped where that is missing (its wheels need Python 3.12)."""

import sys
import threading

import numpy as np
import pytest

from dsmap.errors import DsmapError, InputError

SIZE = (40, 24)
FRAMES = 6


def test_without_vapoursynth_the_error_says_what_to_install(monkeypatch):
    from dsmap.runtime.vapoursynth import translate

    monkeypatch.setitem(sys.modules, "vapoursynth", None)
    with pytest.raises(DsmapError, match="VapourSynth is not installed") as error:
        translate(object(), domain="winter")
    assert "dsmap[vapoursynth]" in error.value.advice


@pytest.fixture(scope="module")
def vs():
    return pytest.importorskip("vapoursynth")


@pytest.fixture
def filtered(vs):
    """The function, with the bundled model: nothing here needs a smaller one."""
    from dsmap.runtime.vapoursynth import translate

    return lambda clip, **options: translate(clip, domain="winter", **options)


def noise(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)


def noisy(vs, **changed):
    """A clip of RGB24 noise with a property of its own on every frame."""
    clip = vs.core.std.BlankClip(width=SIZE[0], height=SIZE[1], format=vs.RGB24, length=FRAMES)

    def drawn(n, f):
        out = f.copy()
        for plane in range(3):
            np.copyto(np.asarray(out[plane]), noise(n)[:, :, plane])
        out.props["Number"] = n
        return out

    return clip.std.ModifyFrame(clip, drawn)


def pixels(frame) -> np.ndarray:
    return np.stack([np.asarray(frame[plane]) for plane in range(3)], axis=-1)


def test_frames_are_those_of_the_translator(vs, filtered):
    from dsmap.runtime import Translator

    out = filtered(noisy(vs), style="fresh-snow")
    assert (out.width, out.height, out.num_frames, out.format.id) == (*SIZE, FRAMES, vs.RGB24)
    with Translator.load(domain="winter", style="fresh-snow") as translator:
        for number in (3, 0, 5):  # in any order
            frame = out.get_frame(number)
            assert np.array_equal(pixels(frame), translator(noise(number)))
            assert (frame.props["Number"], frame.props["_Matrix"]) == (number, vs.MATRIX_RGB)
            assert "_DurationNum" in frame.props


def test_parallel_requests(vs, filtered):
    """Two filters, and requests of both from several threads at once."""
    out = [filtered(noisy(vs)), filtered(noisy(vs), height=16)]
    alone = [[pixels(clip.get_frame(n)) for n in range(FRAMES)] for clip in out]
    out = [filtered(noisy(vs)), filtered(noisy(vs), height=16)]  # nothing is cached
    results: dict[tuple[int, int], np.ndarray] = {}
    done = threading.Semaphore(0)

    def keep(clip: int, n: int):
        def kept(frame, error=None):
            results[clip, n] = pixels(frame)
            done.release()

        return kept

    for n in reversed(range(FRAMES)):
        for clip in (0, 1):
            out[clip].get_frame_async(n, keep(clip, n))
    for _ in range(2 * FRAMES):
        assert done.acquire(timeout=180)
    for (clip, n), frame in results.items():
        assert np.array_equal(frame, alone[clip][n])
    assert not np.array_equal(alone[0][0], alone[1][0])  # at a lower height
    assert alone[1][0].shape == noise(0).shape


@pytest.mark.parametrize(("matrix", "counts_as"), [(None, 6), (2, 6), (1, 1), (9, 9)])
def test_yuv_is_converted_by_its_own_matrix(vs, filtered, matrix, counts_as):
    clip = vs.core.std.BlankClip(width=64, height=48, format=vs.YUV420P8, length=1, color=[90, 160, 90])
    if matrix is not None:
        clip = clip.std.SetFrameProps(_Matrix=matrix)
    expected = filtered(clip.resize.Bicubic(format=vs.RGB24, matrix_in=counts_as)).get_frame(0)
    frame = filtered(clip).get_frame(0)
    assert np.array_equal(pixels(frame), pixels(expected))
    assert frame.props["_Matrix"] == vs.MATRIX_RGB


def test_large_untagged_yuv_is_bt709_and_deep_clips_are_taken(vs, filtered):
    from dsmap.runtime.vapoursynth import _as_rgb24

    clip = vs.core.std.BlankClip(width=1280, height=720, format=vs.YUV422P10, length=1, color=[360, 640, 360])
    expected = clip.resize.Bicubic(format=vs.RGB24, matrix_in=vs.MATRIX_BT709).get_frame(0)
    assert np.array_equal(pixels(_as_rgb24(clip).get_frame(0)), pixels(expected))


def test_clips_that_cannot_be_translated(vs, filtered):
    grey = vs.core.std.BlankClip(width=64, height=48, format=vs.GRAY8, length=2)
    small, large = (vs.core.std.BlankClip(width=w, height=48, format=vs.RGB24, length=2) for w in (64, 80))
    varying = vs.core.std.Splice([small, large], mismatch=True)
    for clip, fact in (
        (grey, "the clip is Gray8"),
        (varying, "differ in size or format"),
        (small.std.SetFrameProps(_Transfer=16), "HDR"),
    ):
        with pytest.raises(InputError, match=fact):
            filtered(clip)
    with pytest.raises(InputError, match="autumn"):
        filtered(small, style="autumn")
