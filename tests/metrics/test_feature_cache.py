"""The cache of features: what its keys depend on, and what else may lie in its folder."""

import importlib
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from evaluation_helpers import landscape, write_images
from tiny import squeezenet_weights

from dsmap.metrics.extractors import load_extractor
from dsmap.metrics.feature_cache import FeatureCache, source_files
from dsmap.metrics.result_folders import find_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A network, and enough images for their features to be kept."""
    root = tmp_path_factory.mktemp("features")
    np.savez(root / "net.npz", **squeezenet_weights())
    write_images(root / "winter", {f"{i}.png": landscape(i) for i in range(25)})
    return root


def test_features_are_kept_for_the_next_time(folder, tmp_path):
    extractor = load_extractor(folder / "net.npz")
    images = find_images(folder / "winter", "")
    made = []

    def make():
        made.append(1)
        return np.full((len(images), 3), len(made), np.float32)

    cache = FeatureCache(tmp_path / "features")
    assert cache.get(extractor, images, make)[0, 0] == 1
    assert cache.get(extractor, images, make)[0, 0] == 1
    assert FeatureCache(tmp_path / "features").get(extractor, images, make)[0, 0] == 1
    assert cache.get(extractor, images[::-1], make)[0, 0] == 2
    (kept, _) = sorted((tmp_path / "features").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    kept.write_bytes(kept.read_bytes()[:50])
    assert cache.get(extractor, images, make)[0, 0] == 3  # a damaged file is made anew
    other = write_images(tmp_path / "other", {path.name: cv2.imread(str(path)) for path in images})
    assert cache.get(extractor, find_images(other, ""), make)[0, 0] == 4
    extractor.fingerprint = "another network"
    assert cache.get(extractor, images, make)[0, 0] == 5
    assert cache.get(extractor, images, make, 128)[0, 0] == 6  # at another size
    assert cache.get(extractor, images[:3], lambda: np.zeros((3, 1), np.float32)).shape == (3, 1)
    assert len(list((tmp_path / "features").iterdir())) == 5
    assert cache.problem == ""
    (tmp_path / "file").touch()
    blocked = FeatureCache(tmp_path / "file" / "features")
    assert blocked.get(extractor, images, make)[0, 0] == 7
    assert "Not a directory" in blocked.problem


def test_kept_features_depend_on_the_code_from_decoders_to_networks():
    """Found where the modules really are: a file that has moved would no longer count."""
    names = ["metrics.extractors", "model.feature_networks", "common.primaries"]
    names += [f"common.images.{name}" for name in ("reading", "colour", "pixels", "exif", "gif", "pillow_decoders")]
    files = {Path(importlib.import_module(f"dsmap.{name}").__file__) for name in (*names, "common.images")}
    assert files <= set(source_files())
    assert all(path.is_file() for path in source_files())


def test_only_kept_features_make_room_for_others(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("dsmap.metrics.feature_cache._MAX_FILES", 1)
    extractor, images = load_extractor(folder / "net.npz"), find_images(folder / "winter", "")
    cache = FeatureCache(tmp_path)
    (tmp_path / "mine.npy").write_text("precious")
    (tmp_path / f"x-{'0' * 32}.npy").symlink_to(tmp_path / "mine.npy")
    for order in (images, images[::-1]):
        cache.get(extractor, order, lambda: np.zeros((len(images), 1), np.float32))
    names = {path.name for path in tmp_path.iterdir()}
    assert {"mine.npy", f"x-{'0' * 32}.npy"} < names
    assert len(names) == 3


def test_the_folder_of_kept_features_may_hold_other_things(folder, tmp_path, monkeypatch):
    """Somebody's arrays are never removed, nor is anything written through a link, nor a pipe waited for."""
    monkeypatch.setattr("dsmap.metrics.feature_cache._MAX_FILES", 2)
    extractor = load_extractor(folder / "net.npz")
    images = find_images(folder / "winter", "")
    cache = FeatureCache(tmp_path)
    mine = [tmp_path / f"{name}.npy" for name in ("a", "b", "measured-2026")]
    for path in mine:
        path.write_bytes(b"mine")
        os.utime(path, (1, 1))

    def make():
        return np.zeros((len(images), 3), np.float32)

    for side in range(64, 70):
        cache.get(extractor, images, make, side)
    assert all(path.read_bytes() == b"mine" for path in mine)
    kept = sorted(set(tmp_path.glob("*.npy")) - set(mine))
    assert len(kept) == 2
    for path in kept:
        path.unlink()
    os.mkfifo(kept[0])
    kept[1].symlink_to(mine[0])
    for side in range(64, 70):
        assert cache.get(extractor, images, make, side).shape == (len(images), 3)
    assert "is not a regular file" in cache.problem or "is a link" in cache.problem
    assert mine[0].read_bytes() == b"mine"
