"""Training images: found or refused in words, and batches that depend on (seed, step) and on nothing else."""

import os
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dsmap.common.images import write_rgb
from dsmap.errors import InputError
from dsmap.training.data import UnpairedBatches
from dsmap.training.datasets import Domain, Domains, find_domains
from dsmap.training.image_tensors import load_image_nchw

SHARED = Path(os.environ.get("DSMAP_SHARED", Path(__file__).resolve().parents[3] / "shared"))


def make_images(folder, count, hw=(40, 56), start=0):
    """`count` different images in `folder`: smooth noise, so that crops and mirroring show."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(start, start + count):
        small = np.random.default_rng(index).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        image_rgb = cv2.resize(small, (hw[1], hw[0]), interpolation=cv2.INTER_CUBIC)
        write_rgb(folder / f"{index:04}.png", image_rgb)
    return folder


def make_domains(tmp_path, count_a=7, count_b=4):
    make_images(tmp_path / "trainA", count_a)
    make_images(tmp_path / "trainB", count_b, start=100)
    return find_domains(tmp_path)


def batches_of(domains, **changed):
    settings = {"shorter_side": 32, "crop_hw": (24, 24), "batch_size": 3, "seed": 5} | changed
    return UnpairedBatches(domains, **settings)


def assert_same(first, second):
    assert first.step == second.step
    assert (first.paths_a, first.paths_b, first.broken) == (second.paths_a, second.paths_b, second.broken)
    assert torch.equal(first.x_a_nchw, second.x_a_nchw)
    assert torch.equal(first.x_b_nchw, second.x_b_nchw)


def break_images(paths):
    for path in paths:
        path.write_bytes(path.read_bytes()[:50])


def test_one_folder(tmp_path):
    make_images(tmp_path / "testA", 2)
    domains = make_domains(tmp_path)
    assert [domains.a.name, domains.b.name] == ["a", "b"]
    assert [len(part) for part in (domains.a.train, domains.a.test, domains.b.train, domains.b.test)] == [7, 2, 4, 0]
    assert [path.name for path in domains.b.train] == ["0100.png", "0101.png", "0102.png", "0103.png"]
    assert find_domains(tmp_path, names=("summer", "winter")).b.name == "winter"


def test_two_folders_with_and_without_train_and_test(tmp_path):
    summer, winter = tmp_path / "s", tmp_path / "w"
    make_images(summer / "train", 3)
    make_images(summer / "test", 1)
    make_images(winter, 2)
    domains = find_domains(None, [("summer", summer), ("winter", winter)])
    assert domains.a == Domain(
        name="summer", train=tuple(sorted((summer / "train").iterdir())), test=tuple((summer / "test").iterdir())
    )
    assert domains.b == Domain(name="winter", train=tuple(sorted(winter.iterdir())))


def test_wrong_folders_are_refused_in_words(tmp_path):
    full, empty, a_file = make_images(tmp_path / "full", 1), tmp_path / "empty", tmp_path / "file"
    empty.mkdir()
    a_file.write_text("x")
    cases = [
        ((None, []), "Two domains are needed, got 0"),
        ((None, [("a", full)]), "Two domains are needed, got 1"),
        ((tmp_path, [("a", full), ("b", empty)]), "Both --data and --domain"),
        ((None, [("a", full), ("a", empty)]), "the two domains need different names, got 'a' twice"),
        ((None, [("a", full), ("b", full)]), "Both domains are the folder"),
        ((None, [("a/b", full), ("c", empty)]), "letters, digits, - and _, got 'a/b'"),
        ((None, [("a", full), ("b", empty)]), "No images in .*empty"),
        ((None, [("a", full), ("b", tmp_path / "gone")]), "gone does not exist"),
        ((None, [("a", full), ("b", a_file)]), "is a file, not a folder"),
        ((tmp_path / "gone", []), "gone does not exist"),
        ((tmp_path, []), "trainA does not exist"),
    ]
    for arguments, expected in cases:
        with pytest.raises(InputError, match=expected) as caught:
            find_domains(*arguments)
        assert caught.value.advice


def test_a_batch(tmp_path):
    batch = batches_of(make_domains(tmp_path), crop_hw=(16, 24))[9]
    for x_nchw in (batch.x_a_nchw, batch.x_b_nchw):
        assert x_nchw.shape == (3, 3, 16, 24)
        assert x_nchw.dtype == torch.float32
        assert x_nchw.is_contiguous()
        assert -1 <= x_nchw.min() < -0.3 < 0.3 < x_nchw.max() <= 1
    assert {path.parent.name for path in batch.paths_a} == {"trainA"}
    assert {path.parent.name for path in batch.paths_b} == {"trainB"}


def test_values_are_exact(tmp_path):
    for side, value in (("A", 0), ("B", 255)):
        (tmp_path / f"train{side}").mkdir()
        write_rgb(tmp_path / f"train{side}" / "one.png", np.full((40, 40, 3), (value, 51, 204), np.uint8))
    batch = batches_of(find_domains(tmp_path))[0]
    for x_nchw, red in ((batch.x_a_nchw, -1.0), (batch.x_b_nchw, 1.0)):
        expected = torch.tensor([red, 51 / 127.5 - 1, 204 / 127.5 - 1]).view(1, 3, 1, 1).expand_as(x_nchw)
        torch.testing.assert_close(x_nchw, expected, rtol=0, atol=1e-6)


def test_what_of_a_folder_is_no_image_is_told(tmp_path):
    make_domains(tmp_path)
    (tmp_path / "trainA" / "notes.txt").touch()
    (tmp_path / "trainA" / "dead.jpg").symlink_to("/nowhere")
    (tmp_path / "trainA" / "._0000.png").write_bytes(b"\0\5\x16\7")
    domains = find_domains(tmp_path)
    fact = f"3 files left out of {tmp_path / 'trainA'}: 1 .txt, 1 AppleDouble file, 1 dead link"
    assert (domains.a.left_out, domains.b.left_out) == ((fact,), ())
    assert all(path.suffix == ".png" and not path.name.startswith(".") for path in domains.a.train)
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "notes.txt").touch()
    with pytest.raises(InputError, match=r"No images in .*only \(1 file left out: 1 \.txt\)"):
        find_domains(None, [("a", tmp_path / "only"), ("b", tmp_path / "trainB")])


def test_training_images_are_srgb_whatever_their_profile(tmp_path):
    from PIL import Image

    from dsmap.common.images.matrix_profile import coded_profile

    for side in "AB":
        (tmp_path / f"train{side}").mkdir()
        colour = Image.fromarray(np.full((40, 40, 3), (200, 60, 40), np.uint8))
        colour.save(tmp_path / f"train{side}" / "one.png", icc_profile=coded_profile(12, 13) if side == "A" else None)
    batch = batches_of(find_domains(tmp_path))[0]
    for x_nchw, wanted in ((batch.x_a_nchw, (217, 42, 23)), (batch.x_b_nchw, (200, 60, 40))):
        assert np.abs((x_nchw[0, :, 0, 0].numpy() + 1) * 127.5 - wanted).max() <= 2


def test_a_image_that_does_not_fit_into_memory_is_replaced_and_named(tmp_path, monkeypatch):
    from dsmap.common.images import size
    from dsmap.training.datasets import without_too_large

    domains = make_domains(tmp_path)
    large = domains.a.train[1]
    write_rgb(large, np.zeros((2100, 2000, 3), np.uint8))
    monkeypatch.setattr(size, "available_bytes", lambda: 50_000_000)
    broken = []
    for _ in batches_of(domains).loader(0, 4, on_broken=broken.append):
        pass
    assert [one.path for one in broken] == [large]
    assert "2000x2100 pixels need about 0.1 GB" in broken[0].fact
    kept = without_too_large(domains)
    assert large not in kept.a.train
    assert len(kept.a.train) == len(domains.a.train) - 1
    assert kept.a.left_out[0].startswith(f"{large} is left out: 2000x2100 pixels")


def test_any_number_of_workers_and_any_start_give_the_same_batches(tmp_path):
    domains = make_domains(tmp_path)
    expected = [batches_of(domains, scale_jitter=(0.8, 1.3))[step] for step in range(8)]
    for workers, start in ((0, 0), (2, 0), (2, 5), (0, 3)):
        loaded = list(batches_of(domains, scale_jitter=(0.8, 1.3)).loader(start, 8, workers=workers))
        assert [batch.step for batch in loaded] == list(range(start, 8))
        for batch in loaded:
            assert_same(batch, expected[batch.step])


def test_the_seed_decides(tmp_path):
    domains = make_domains(tmp_path)
    first, second = batches_of(domains)[2], batches_of(domains, seed=6)[2]
    assert not torch.equal(first.x_a_nchw, second.x_a_nchw)


def test_each_epoch_shows_every_image_once_in_a_new_order(tmp_path):
    domains = make_domains(tmp_path, count_a=7, count_b=4)
    loaded = list(batches_of(domains).loader(0, 28))  # 84 images of each: 12 epochs of a, 21 of b
    for domain, seen in (
        (domains.a, [path for batch in loaded for path in batch.paths_a]),
        (domains.b, [path for batch in loaded for path in batch.paths_b]),
    ):
        length = len(domain.train)
        epochs = [tuple(seen[start : start + length]) for start in range(0, 84, length)]
        assert all(Counter(epoch) == Counter(domain.train) for epoch in epochs)
        assert len(set(epochs)) > len(epochs) // 2


def test_a_image_seen_again_is_cropped_and_mirrored_anew(tmp_path):
    domains = make_domains(tmp_path, 1, 1)
    crops = {batches_of(domains, batch_size=1)[step].x_a_nchw.numpy().tobytes() for step in range(12)}
    assert len(crops) > 8  # of 9 x 22 places, mirrored or not: a few may meet
    # At the full size only mirroring is left.
    write_rgb(domains.a.train[0], np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    whole = batches_of(domains, batch_size=1, crop_hw=(32, 32))
    plain = batches_of(domains, batch_size=1, crop_hw=(32, 32), flip=False)[0].x_a_nchw
    mirrored = [torch.equal(whole[step].x_a_nchw, plain.flip(3)) for step in range(200)]
    assert 70 < sum(mirrored) < 130
    assert all(mirrored[step] or torch.equal(whole[step].x_a_nchw, plain) for step in range(20))


def test_images_smaller_than_the_crop_and_very_long_ones(tmp_path):
    make_images(tmp_path / "trainA", 1, hw=(9, 11))
    make_images(tmp_path / "trainB", 1, hw=(300, 33), start=1)
    for step in range(5):
        batch = batches_of(find_domains(tmp_path), crop_hw=(32, 32), scale_jitter=(1.0, 1.5))[step]
        assert batch.x_a_nchw.shape == batch.x_b_nchw.shape == (3, 3, 32, 32)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"crop_hw": (24, 33)}, "crop 24x33 does not fit"),
        ({"crop_hw": (32, 32), "scale_jitter": (0.9, 1.0)}, "does not fit"),
        ({"scale_jitter": (1.2, 1.0)}, "scale_jitter"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_wrong_settings(tmp_path, changed, expected):
    with pytest.raises(InputError, match=expected):
        batches_of(make_domains(tmp_path, 1, 1), **changed)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_replaced_counted_and_told_once(tmp_path, workers):
    domains = make_domains(tmp_path)
    break_images([domains.a.train[2]])
    told = []
    loaded = list(batches_of(domains).loader(0, 20, workers=workers, on_broken=told.append))
    assert [(broken.side, broken.path) for broken in told] == [(0, domains.a.train[2])]
    assert "cut short" in told[0].fact
    assert all(domains.a.train[2] not in batch.paths_a for batch in loaded)
    assert sum(len(batch.broken) for batch in loaded) > 1
    batches = batches_of(domains)
    told = []
    for start in (0, 20):
        assert list(batches.loader(start, start + 20, workers=workers, on_broken=told.append))
    assert len(told) == 1
    fresh = batches_of(domains)  # knows nothing of the broken image yet, and still agrees
    for batch in loaded[::-3]:
        assert_same(batch, fresh[batch.step])


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_broken_images_stop_the_training(tmp_path, workers):
    domains = make_domains(tmp_path, count_a=20)
    break_images(domains.a.train[:2])  # a tenth: still allowed
    assert len(list(batches_of(domains).loader(0, 7, workers=workers))) == 7
    break_images(domains.a.train[2:3])
    told = []
    with pytest.raises(InputError, match=r"broken images in domain 'a': 3 of 20 so far.*at most 10%") as caught:
        list(batches_of(domains).loader(0, 7, workers=workers, on_broken=told.append))
    assert len(told) == 3
    assert str(domains.a.train[0].parent) in caught.value.advice


@pytest.mark.parametrize("workers", [0, 2])
def test_no_whole_image_left(tmp_path, workers):
    domains = make_domains(tmp_path, count_b=1)
    domains.b.train[0].unlink()
    with pytest.raises(InputError, match="domain 'b': 1 of 1"):
        list(batches_of(domains).loader(0, 2, workers=workers))


def test_load_image(tmp_path):
    path = make_images(tmp_path, 1, hw=(50, 83)) / "0000.png"
    x_nchw = load_image_nchw(path, 32)
    assert x_nchw.shape == (1, 3, 32, 48)  # 53 wide, cut to 48
    assert x_nchw.dtype == torch.float32
    assert -1 <= x_nchw.min() < x_nchw.max() <= 1
    assert load_image_nchw(path, 50, multiple_of=1).shape == (1, 3, 50, 83)
    with pytest.raises(InputError, match="shorter side is 4"):
        load_image_nchw(path, 4)


def test_a_hundred_thousand_images_cost_nothing_to_start(tmp_path):
    one = make_images(tmp_path, 1) / "0000.png"
    many = Domain(name="a", train=tuple(one for _ in range(100_000)))
    start = time.process_time()
    batches_of(Domains(many, many))[123_456]
    assert time.process_time() - start < 2


@pytest.mark.skipif(not (SHARED / "data" / "yosemite").is_dir(), reason="no photographs at hand")
def test_photographs():
    batches = UnpairedBatches(
        find_domains(SHARED / "data" / "yosemite"), shorter_side=256, crop_hw=(128, 128), batch_size=4, seed=0
    )
    for batch in batches.loader(0, 3):
        assert batch.broken == ()
        # Many views, not one: the crops of a batch differ.
        assert all(batch.x_a_nchw.flatten(1).std(1) > 0.02)
