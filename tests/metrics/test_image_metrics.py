"""The evaluation of images: feature networks, what is kept of a content, diversity, and folders of known order."""

import os
import zipfile

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from evaluation_helpers import TinyInception, landscape, saved
from tiny import squeezenet_weights
from torch import nn

from dsmap.errors import DsmapError, InputError
from dsmap.metrics import extractors
from dsmap.metrics.classifier import fit_classifier
from dsmap.metrics.distances import frechet_distance, kernel_distance
from dsmap.metrics.diversity import diversity
from dsmap.metrics.extractors import Inception, SqueezeNet, SqueezeNetDistance, load_extractor, load_lpips
from dsmap.metrics.preservation import (
    at_smaller_size,
    edge_structure,
    feature_similarity,
    like_content,
    same_shape,
    ssim,
)
from dsmap.model.feature_networks import SqueezeNetFeatures

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    """A narrow SqueezeNet with a classifier of 20 classes."""
    generator = np.random.default_rng(5)
    path = tmp_path_factory.mktemp("nets") / "net.npz"
    classifier = {
        "conv10.weight": generator.standard_normal((20, 9, 1, 1)).astype(np.float32),
        "conv10.bias": generator.standard_normal(20).astype(np.float32),
    }
    np.savez(path, **squeezenet_weights() | classifier)
    return path


@pytest.fixture(scope="module")
def squeezenet(weights_file):
    return load_extractor(weights_file)


def resized(image_rgb):
    """A whole image as the network gets it."""
    x_nchw = torch.from_numpy(image_rgb).permute(2, 0, 1)[None].float()
    return F.interpolate(x_nchw, (227, 227), mode="bilinear", antialias=True) / 127.5 - 1


def test_squeezenet_features(squeezenet, weights_file):
    images = [landscape(0), landscape(1, (300, 280)), landscape(2, (300, 280)), landscape(3, (20, 400))]
    network, weights = SqueezeNetFeatures(weights_file).eval(), np.load(weights_file)
    with torch.no_grad():
        maps = torch.cat([network(resized(image)) for image in images])
    by_hand = np.einsum("nchw,kc->nk", maps.numpy(), weights["conv10.weight"][:, :, 0, 0]) / maps[0, 0].numel()
    by_hand += weights["conv10.bias"]
    assert (by_hand < 0).any()  # no ReLU after conv10
    for batch in (1, 2, 16):
        found = squeezenet.pooled(iter(images), batch=batch)
        assert found == pytest.approx(by_hand, abs=1e-4)
    assert found.dtype == np.float32
    assert (squeezenet.key, squeezenet.published, squeezenet.standardised) == ("squeezenet", False, True)
    assert "conv10" in squeezenet.name


def test_squeezenet_without_its_classifier(tmp_path):
    path = tmp_path / "net.npz"
    np.savez(path, **squeezenet_weights())
    extractor = SqueezeNet(path)
    with torch.no_grad():
        expected = SqueezeNetFeatures(path)(resized(landscape(0))).mean((2, 3))
    assert extractor.pooled([landscape(0)]) == pytest.approx(expected.numpy(), abs=1e-5)
    assert "fire9" in extractor.name


def test_squeezenet_files_that_are_wrong(tmp_path):
    path = tmp_path / "net.npz"
    np.savez(path, **squeezenet_weights(), **{"conv10.weight": np.zeros((20, 8, 1, 1)), "conv10.bias": np.zeros(20)})
    with pytest.raises(InputError, match=r"conv10 of shape \(20, 8, 1, 1\)"):
        load_extractor(path)
    np.savez(path, **squeezenet_weights() | {"fire9/expand3x3.bias": np.full(5, np.nan, np.float32)})
    with pytest.raises(DsmapError, match="not finite"):
        load_extractor(path).pooled([landscape(0)])


def test_images_that_are_none(squeezenet):
    with pytest.raises(ValueError, match=r"float64 \(8, 8, 3\)"):
        squeezenet.pooled([np.zeros((8, 8, 3))])
    assert len(squeezenet.pooled([])) == 0


def test_inception(tmp_path, monkeypatch):
    torch.manual_seed(0)
    module = TinyInception().eval()
    path = saved(module, tmp_path / "inception.pt")
    extractor = load_extractor(path, run_code=True)
    assert isinstance(extractor, Inception)
    assert (extractor.key, extractor.published, extractor.standardised) == ("inception", False, False)
    assert extractor.name == "a network other than Inception (inception.pt)"
    images = [landscape(0), landscape(1), landscape(2, (40, 90))]
    with torch.no_grad():
        expected = [module(torch.from_numpy(p).permute(2, 0, 1)[None], return_features=True) for p in images]
    assert extractor.pooled(images) == pytest.approx(torch.cat(expected).numpy(), abs=1e-5)
    # The published file is known by its contents.
    monkeypatch.setattr(extractors, "INCEPTION_SHA256", extractors._sha256(path))
    assert load_extractor(path).published
    assert "Inception v3" in load_extractor(path).name


def test_files_that_are_no_feature_network(tmp_path):
    class TakesNothingElse(nn.Module):
        def forward(self, x):
            return x

    class TwoThings(nn.Module):
        def forward(self, img: torch.Tensor, return_features: bool = False):
            return img, img

    def plain(path, content):
        path.write_bytes(content)
        return path

    weights = tmp_path / "pt_inception-2015-12-05-6726825d.pth"
    torch.save(nn.Linear(2, 2).state_dict(), weights)
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.txt", "a")
    for path, fact in {
        tmp_path / "none.npz": "No such file",
        plain(tmp_path / "a.txt", b"text"): "is not a feature network",
        plain(tmp_path / "empty.pt", b""): "is not a feature network",
        weights: "weights without their network",
        archive: "is not a feature network",
        saved(TinyInception(1000), tmp_path / "classes.pt"): r"gives \(1, 1000\) for an image, expected \(1, 2048\)",
        saved(TakesNothingElse(), tmp_path / "else.pt"): "forward.. expected at most 2",
        saved(TwoThings(), tmp_path / "two.pt"): "gives tuple",
    }.items():
        with pytest.raises(InputError, match=fact) as caught:
            load_extractor(path, run_code=True)
        assert "\n" not in caught.value.fact, path
    damaged = plain(tmp_path / "cut.pt", saved(TinyInception(), tmp_path / "whole.pt").read_bytes()[:-300])
    with pytest.raises(InputError):
        load_extractor(damaged, run_code=True)


class Overwrites(TinyInception):
    """A program that writes into a file of its user's, as TorchScript can."""

    def forward(self, img: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        written = torch.from_file("precious.bin", True, 4, dtype=torch.uint8).fill_(88)
        return torch.zeros(len(img), 2048) + written.sum()


def test_no_program_is_run_unless_it_is_known_or_asked_for(tmp_path, monkeypatch):
    path = saved(Overwrites(), tmp_path / "features.pt")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "precious.bin").write_bytes(b"precious")
    with pytest.raises(InputError, match="TorchScript program, and not the known one") as caught:
        load_extractor(path)
    assert "--features-run-code" in caught.value.advice
    assert (tmp_path / "precious.bin").read_bytes() == b"precious"
    load_extractor(path, run_code=True)  # it is what it was said to be
    assert (tmp_path / "precious.bin").read_bytes() == b"XXXXious"
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(InputError, match="it is not a regular file"):
        load_extractor(tmp_path / "pipe.pt")


def test_folders_of_known_order(squeezenet):
    """Identical folders, two halves of one folder, a half whose colours are shifted."""
    images = [landscape(seed) for seed in range(100)]
    x = squeezenet.pooled(images)
    tint = [(p * np.array((1, 0.6, 0.6)) + (60, 0, 0)).clip(0, 255).astype(np.uint8) for p in images[::2]]
    tinted = squeezenet.pooled(tint)
    for distance in (kernel_distance, frechet_distance):
        assert distance(x, x) == pytest.approx(0, abs=1e-6)
        assert distance(tinted, x[1::2]) > 20 * abs(distance(x[::2], x[1::2])) > 0


@pytest.mark.parametrize("kind", ["random", "natural"])
def test_ssim_as_torchmetrics_has_it(kind):
    from torchmetrics.functional.image import structural_similarity_index_measure

    rng = np.random.default_rng(0)
    if kind == "random":
        x, y = (rng.integers(0, 256, (40, 56, 3), dtype=np.uint8) for _ in range(2))
        y = (0.7 * x + 0.3 * y).astype(np.uint8)
    else:
        x = landscape(0, (40, 56))
        y = (cv2.GaussianBlur(x, (0, 0), 1) * 0.8 + 20).astype(np.uint8)
    lumas = [torch.from_numpy(p @ np.array((0.299, 0.587, 0.114)))[None, None] for p in (x, y)]
    expected = structural_similarity_index_measure(*lumas, data_range=255.0).item()
    assert 0.3 < expected < 0.95
    assert ssim(x, y) == pytest.approx(expected, abs=1e-6)
    assert ssim(x, x) == pytest.approx(1)


def degraded():
    """What may happen to the edges of an image, by name."""
    rng = np.random.default_rng(0)

    def snow(x):
        ground = cv2.GaussianBlur(x.mean(2), (0, 0), 4) < 130
        return np.where(ground[..., None], 0.35 * x + 150, x).astype(np.uint8)

    return {
        "identical": lambda x: x,
        "half the contrast": lambda x: (x * 0.5 + 60).astype(np.uint8),
        "negative": lambda x: 255 - x,
        "blue filter": lambda x: (x * np.array((0.5, 0.7, 1))).astype(np.uint8),
        "grain": lambda x: (x + rng.normal(0, 6, x.shape)).clip(0, 255).astype(np.uint8),
        "snow": snow,
        "blur": lambda x: cv2.GaussianBlur(x, (0, 0), 2),
        "strong blur": lambda x: cv2.GaussianBlur(x, (0, 0), 5),
        "another": lambda x: landscape(int(x[0, 0, 0]) + 1000, x.shape[:2]),
        "flat": lambda x: np.full_like(x, 128),
        "noise": lambda x: rng.integers(0, 256, x.shape, dtype=np.uint8),
    }


@pytest.mark.parametrize("scale", [0, 1])
def test_edge_structure_ranks_what_is_kept(scale):
    contents = [landscape(seed, (128, 128)) for seed in range(6)]
    kept = {
        name: np.mean([edge_structure(x, change(x), scale=scale) for x in contents])
        for name, change in degraded().items()
    }
    assert kept["identical"] == pytest.approx(1)
    for name in ("half the contrast", "negative", "blue filter"):
        assert kept[name] > 0.95, kept
    assert 0.6 < kept["snow"] < 0.97, kept
    assert kept["grain"] > 0.7, kept
    assert kept["snow"] > kept["blur"] > kept["strong blur"] > 0.05, kept
    for name in ("another", "flat", "noise"):
        assert abs(kept[name]) < 0.08, kept


def test_grain_in_a_sky_neither_helps_nor_harms():
    """Half of the image is sky; that its grain is another one, or gone, changes nothing."""
    content = landscape(0, (128, 128))
    content[:40] = (100, 150, 220)
    rng = np.random.default_rng(0)
    grainy, other_grain = (
        np.concatenate([(content[:36] + rng.normal(0, 3, (36, 128, 3))).astype(np.uint8), content[36:]])
        for _ in range(2)
    )
    for result in (content, other_grain):
        assert edge_structure(grainy, result) == pytest.approx(1, abs=0.01)
    assert np.isnan(edge_structure(np.full((32, 32, 3), 90, np.uint8), content[:32, :32]))


def test_results_of_another_size():
    content = landscape(0, (64, 96))
    larger = cv2.resize(content, (192, 128), interpolation=cv2.INTER_CUBIC)
    assert like_content(content, larger).shape == content.shape
    assert like_content(content, content) is content
    for score in (ssim, edge_structure):
        assert score(content, larger) > 0.9
        with pytest.raises(InputError, match="96x10 pixels"):
            score(content[:10], content)
    assert at_smaller_size(content, larger)[0] is content
    detailed = np.random.default_rng(0).integers(0, 256, (128, 192, 3), np.uint8)
    half = cv2.resize(detailed, (96, 64), interpolation=cv2.INTER_AREA)
    shrunk, result = at_smaller_size(detailed, half)
    assert result is half
    assert np.array_equal(shrunk, half)  # a small result is not blamed for what enlarging blurs
    assert same_shape(content, larger)
    assert same_shape(content, content[:, :92])
    assert not same_shape(content, content[:, :80])


def test_feature_similarity(squeezenet):
    contents = [landscape(seed) for seed in range(5)]
    others = [landscape(seed + 50, (80, 60)) for seed in range(5)]
    same = feature_similarity(squeezenet, contents, contents, batch=2)
    assert same == pytest.approx(np.ones(5), abs=1e-5)
    blurred = feature_similarity(squeezenet, contents, [cv2.GaussianBlur(x, (0, 0), 1) for x in contents])
    unrelated = feature_similarity(squeezenet, contents, others)
    assert unrelated.shape == (5,)
    assert same.mean() > blurred.mean() > unrelated.mean() > 0
    one, two = (squeezenet.network.taps(resized(p))[1][0] for p in (contents[0], others[0]))
    by_hand = ((one * two).sum(0) / (one.norm(dim=0) * two.norm(dim=0)).clamp_min(1e-8)).mean().item()
    assert unrelated[0] == pytest.approx(by_hand, abs=1e-5)
    with pytest.raises(ValueError, match="5 contents for 4"):
        feature_similarity(squeezenet, contents, others[:4])


def test_perceptual_distance(squeezenet):
    images = [landscape(0), landscape(1), landscape(2, (90, 50)), landscape(0)]
    distance = SqueezeNetDistance(squeezenet)
    found = distance(images, [(0, 1), (0, 2), (2, 0), (0, 3)])
    by_hand = []
    for one, two in zip(*(squeezenet.network.taps(resized(p)) for p in images[:2]), strict=True):
        one, two = (tap / tap.norm(dim=1, keepdim=True).clamp_min(1e-10) for tap in (one, two))
        by_hand.append(((one - two) ** 2).sum(1).mean().item())
    assert found[0] == pytest.approx(np.mean(by_hand), rel=1e-4)
    assert found[1] == pytest.approx(found[2])
    assert found[3] == pytest.approx(0, abs=1e-9)
    assert len(distance(images, [])) == 0
    assert "not LPIPS" in distance.name


class PixelDistance:
    """The mean absolute difference; remembers the pairs."""

    name = key = "pixels"

    def __init__(self):
        self.pairs = []

    def __call__(self, images_rgb, pairs):
        self.pairs.append(pairs)
        return np.array([np.abs(images_rgb[i].astype(float) - images_rgb[j]).mean() for i, j in pairs])


def grey(level):
    return np.full((16, 16, 3), level, np.uint8)


def test_diversity_is_the_mean_over_pairs_of_one_content():
    results = [("a", [grey(0), grey(10), grey(30)]), ("b", [grey(7)] * 4), ("alone", [grey(9)]), ("none", [])]
    assert diversity(iter(results), PixelDistance(), pairs=10) == {"a": 20.0, "b": 0.0}


def test_the_pairs_of_styles():
    distance = PixelDistance()
    styles = [grey(10 * i) for i in range(10)]
    diversity([(i, styles) for i in range(30)], distance, pairs=15, seed=4)
    for pairs in distance.pairs:
        assert len(set(pairs)) == 15
        assert all(0 <= i < j < 10 for i, j in pairs)
    assert len(set(map(tuple, distance.pairs))) > 25  # each content has its own
    assert len({pair for pairs in distance.pairs for pair in pairs}) == 45
    again, other = PixelDistance(), PixelDistance()
    diversity([(i, styles) for i in range(30)], again, pairs=15, seed=4)
    diversity([(i, styles) for i in range(30)], other, pairs=15, seed=5)
    assert again.pairs == distance.pairs != other.pairs


def test_lpips_by_torchmetrics(monkeypatch):
    """The trunk's weights come from the internet; here they are random, the rest is the real thing."""
    lpip = pytest.importorskip("torchmetrics.image.lpip")
    from torchmetrics.functional.image import lpips

    def alexnet(name, pretrained):
        torch.manual_seed(0)
        convs = [nn.Conv2d(i, o, k, s, p) for i, o, k, s, p in _ALEXNET]
        relus = [nn.ReLU() for _ in convs]
        layers = [*zip(convs, relus, strict=True)]
        pools = [nn.MaxPool2d(3, 2) for _ in range(3)]
        return nn.Sequential(*layers[0], pools[0], *layers[1], pools[1], *layers[2], *layers[3], *layers[4], pools[2])

    monkeypatch.setattr(lpip, "_TORCHVISION_AVAILABLE", True)
    monkeypatch.setattr(lpips, "_get_tv_model_features", alexnet)
    distance = load_lpips("alex")
    assert distance.name == "LPIPS (alex)"
    images = [landscape(0), landscape(1), landscape(0)]
    found = distance(images, [(0, 1), (1, 0), (0, 2)])
    x = [torch.from_numpy(p).permute(2, 0, 1)[None].float() / 127.5 - 1 for p in images]
    assert found[0] == pytest.approx(distance.metric.net(x[0], x[1]).item())
    assert found[0] == pytest.approx(found[1])
    assert found[0] > 0.001
    assert found[2] == 0
    assert distance(images, [(0, 1)]) == pytest.approx(found[:1])
    assert len(distance(images, [])) == 0


_ALEXNET = (
    (3, 64, 11, 4, 2),
    (64, 192, 5, 1, 2),
    (192, 384, 3, 1, 1),
    (384, 256, 3, 1, 1),
    (256, 256, 3, 1, 1),
)


@pytest.mark.parametrize(
    ("error", "fact"),
    [
        (ModuleNotFoundError("Torchvision is not installed.\nMore."), "one is missing: Torchvision is not installed."),
        (RuntimeError("operator torchvision::nms does not exist"), "does not work here: operator torchvision::nms"),
        (OSError("no route to host"), "cannot download the weights of LPIPS's network vgg: no route to host"),
    ],
)
def test_lpips_that_cannot_be_had(monkeypatch, error, fact):
    lpip = pytest.importorskip("torchmetrics.image.lpip")

    def fails(*_arguments, **_options):
        raise error

    monkeypatch.setattr(lpip, "LearnedPerceptualImagePatchSimilarity", fails)
    with pytest.raises(DsmapError) as caught:
        load_lpips("vgg")
    assert fact in caught.value.fact
    assert "\n" not in caught.value.fact
    assert "--features" in caught.value.advice


def test_the_real_squeezenet_tells_seasons(shared):
    """On a few images of each, as a whole set takes minutes."""
    from dsmap.common.images import list_images, read_rgb

    extractor = load_extractor(shared / "nets" / "squeezenet_v1.0_imagenet.npz")
    summer, winter = (
        extractor.pooled(map(read_rgb, list_images(shared / "data" / "yosemite" / name)[::5]))
        for name in ("testA", "testB")
    )
    assert summer.shape == (31, 1000)
    assert winter.shape == (25, 1000)
    assert fit_classifier(summer, winter).accuracy > 0.6
