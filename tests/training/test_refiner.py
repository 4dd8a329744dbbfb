"""Refiners: the network, its training, its graph, and how it gets into a bundle and into results."""

import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from commands import call

from dsmap.common.images import write_rgb
from dsmap.errors import DsmapError, InputError
from dsmap.export.card_update import update_card
from dsmap.export.graph_metadata import read_stamp
from dsmap.export.refiner import checked_graph
from dsmap.export.verify import open_session
from dsmap.model.refiner import Refiner, from_blocks, to_blocks
from dsmap.runtime.bundle.bundle import TRANSLATING, Bundle, Components
from dsmap.runtime.frame_translator import as_frame_translator
from dsmap.runtime.jobs.options import ModelOptions, VideoOptions
from dsmap.runtime.jobs.request import resolve_request
from dsmap.runtime.jobs.stages import FrameSteps
from dsmap.runtime.live.translation import Preparation
from dsmap.runtime.refine.guided import guided
from dsmap.runtime.refine.learnt import LearntRefiner
from dsmap.runtime.styles.strength import StrengthTranslator
from dsmap.runtime.translator import Translator
from dsmap.tools import distill, export, models
from dsmap.training import generator_run, refiner_data
from dsmap.training.refiner import psnr_of, train_refiner, with_areas_of
from dsmap.training.refiner_data import Patches, make_patches
from dsmap.training.refiner_run import load_refiner, refiner_file, save_refiner

pytestmark = pytest.mark.usefixtures("torch_alone")


def picture(seed: int, height: int = 64, width: int = 96) -> np.ndarray:
    """Soft colours with grain, uint8 RGB."""
    generator = np.random.default_rng(seed)
    soft = cv2.resize(generator.uniform(20, 230, (height // 16, width // 16, 3)), (width, height))
    return np.clip(soft + generator.normal(0, 12, (height, width, 1)), 0, 255).astype(np.uint8)


class Inverse:
    """A teacher of the simplest kind, whose details are not those of the larger map: bright on bright."""

    source, target = "summer", "winter"

    def translate(self, frame_rgb, seed):
        detail = frame_rgb.astype(np.float32) - cv2.GaussianBlur(frame_rgb, (0, 0), 2)
        return np.clip(170 - 0.5 * frame_rgb + 2 * detail, 0, 255).astype(np.uint8)

    def enlarge(self, frame_rgb, small_rgb, translated_rgb):
        return guided(frame_rgb, small_rgb, translated_rgb)


@pytest.fixture(scope="module")
def patches(tmp_path_factory) -> Patches:
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / f"{seed}.png" for seed in range(4)]
    for seed, path in enumerate(paths):
        write_rgb(path, picture(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refiner_data, "PATCH", 64)
        return make_patches(Inverse(), paths, folder / "patches.npy", 0)


@pytest.fixture(scope="module")
def trained(patches) -> Refiner:
    torch.manual_seed(0)
    refiner = Refiner(width=8, depth=1)
    before, untrained = psnr_of(refiner, patches)
    assert untrained == before  # changes nothing yet
    steps = list(train_refiner(refiner, patches, steps=100, batch_size=4, lr=4e-3))
    assert [now.step for now in steps] == list(range(1, 101))
    assert psnr_of(refiner, patches)[1] > before + 0.3
    return refiner


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("refiner") / "run"
    save_refiner(trained, folder, {"model": "tiny", "target": "winter", "psnr": 1.0, "psnr_without": 0.5})
    return folder


@pytest.fixture(scope="module")
def refining(tiny_bundle, run, tmp_path_factory):
    """A bundle with a refiner to winter, not to summer."""
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    shutil.copytree(tiny_bundle, folder)
    code, out, err = call(export, folder, "--refiner", run)
    assert code == 0, err
    assert "refiner to winter: 1.0 dB, 0.5 dB without it" in out
    return folder


def test_long_work_says_how_many_images_are_done(tmp_path, monkeypatch):
    monkeypatch.setattr(generator_run, "_SILENCE", -1.0)
    monkeypatch.setattr(refiner_data, "PATCH", 64)
    paths = [tmp_path / f"{seed}.png" for seed in range(3)]
    for seed, path in enumerate(paths):
        write_rgb(path, picture(seed))
    said = []
    make_patches(Inverse(), paths, tmp_path / "patches.npy", 0, said.append)
    assert [line.split(" ")[:2] for line in said] == [["image", "1/3"], ["image", "2/3"]]
    assert all("images/s, " in line and line.endswith(" left") for line in said)


def test_blocks_are_pixels_row_by_row():
    x_nchw = torch.arange(2 * 3 * 8 * 12).reshape(2, 3, 8, 12).float()
    blocks = to_blocks(x_nchw)
    assert torch.equal(blocks[1, :, 1, 2].reshape(4, 4, 3), x_nchw[1, :, 4:8, 8:12].permute(1, 2, 0))
    assert torch.equal(from_blocks(blocks), x_nchw)


def test_the_network_is_small():
    assert sum(value.numel() for value in Refiner().parameters()) < 60_000


def test_no_place_depends_on_a_far_one(trained):
    frame, base = (torch.from_numpy(picture(seed)).permute(2, 0, 1)[None].float() for seed in (5, 6))
    other = base.clone()
    other[..., 60:] = 0
    assert torch.equal(trained(frame, base)[..., :40], trained(frame, other)[..., :40])


def test_the_graph_gives_what_torch_does(trained):
    frame, base = (torch.from_numpy(picture(seed)).permute(2, 0, 1)[None].float() for seed in (7, 8))
    blocks = torch.cat([to_blocks(frame), to_blocks(base)], 1).permute(0, 2, 3, 1).byte().numpy()
    session = open_session(checked_graph(trained).SerializeToString())
    (found,) = session.run(["difference"], {"blocks": np.ascontiguousarray(blocks)})
    drawn = from_blocks(torch.from_numpy(found).permute(0, 3, 1, 2).float()) - 128
    assert (drawn - (trained(frame, base) - base).clamp(-128, 127)).abs().mean() < 1


def test_whole_areas_take_half_of_the_tone():
    base = torch.from_numpy(picture(1)).permute(2, 0, 1)[None].float()
    assert torch.allclose(with_areas_of(base, base + 40), base + 20, atol=1e-3)
    detail = 20 * (torch.arange(96) % 2 * 2 - 1).float().expand_as(base)
    assert torch.allclose(with_areas_of(base, base + detail), base + detail, atol=1e-3)


def test_a_graph_that_differs_is_refused(trained):
    broken = Refiner(width=8, depth=1)
    broken.load_state_dict(trained.state_dict())
    broken.peaks.fill_(1e-3)  # everything is cut off
    with pytest.raises(DsmapError, match="differs from torch"):
        checked_graph(broken)


@pytest.mark.parametrize("size", [(96, 64), (97, 66), (30, 31), (4, 4)])
def test_an_untrained_refiner_gives_its_base(size):
    frame = picture(9, 80, 112)[: size[1], : size[0]]
    small = cv2.resize(frame, (max(1, size[0] // 2), max(1, size[1] // 2)), interpolation=cv2.INTER_AREA)
    refine = LearntRefiner(checked_graph(Refiner()).SerializeToString(), open_session)
    assert np.array_equal(refine(frame, small, 255 - small), guided(frame, small, 255 - small))


def test_a_trained_one_comes_nearer_in_the_runtime(trained):
    frame, teacher = picture(3), Inverse()
    small = cv2.resize(frame, (48, 32), interpolation=cv2.INTER_AREA)
    refine = LearntRefiner(checked_graph(trained).SerializeToString(), open_session)
    low = teacher.translate(small, None)
    wanted = teacher.translate(frame, None).astype(int)
    errors = [np.square(way(frame, small, low) - wanted).mean() for way in (guided, refine)]
    assert errors[1] < 0.97 * errors[0]


def test_it_is_kept_whole(trained, run, tmp_path):
    again, about = load_refiner(refiner_file(run, "winter"))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in trained.state_dict().items())
    assert about["psnr"] == 1.0
    (tmp_path / "refiner.winter.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(InputError, match="is not a refiner"):
        load_refiner(tmp_path / "refiner.winter.safetensors")


def test_a_bundle_lists_and_checks_it(refining, run, tiny_bundle):
    bundle = Bundle.read(refining)
    assert list(bundle.manifest.components.refiner) == ["winter"]
    assert bundle.manifest.provenance["refiner"]["winter"]["psnr"] == 1.0
    assert bundle.fingerprint != Bundle.open(tiny_bundle).fingerprint
    code, _, err = call(export, refining, "--refiner", run)
    assert code == 2
    assert "already has a refiner to winter" in err
    assert call(models, "verify", refining)[0] == 0


def test_a_changed_refiner_is_refused(refining, tmp_path):
    shutil.copytree(refining, tmp_path / "bundle")
    path = tmp_path / "bundle" / "refiner.winter.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(InputError, match="has changed since"):
        Bundle.read(tmp_path / "bundle")


def test_results_are_refined_by_it(refining):
    frame = picture(11)
    with Translator.load(refining, domain="winter") as translator:
        results = {}
        for refine in ("guided", "learnt", "auto"):
            steps = FrameSteps(translator, 96, 64, lines=32, refine=refine)
            results[refine] = steps.finish(frame, steps.begin(frame)())
        assert np.array_equal(results["auto"], results["learnt"])
        assert not np.array_equal(results["guided"], results["learnt"])
        assert StrengthTranslator(translator, 0.5).learnt_refiner() is None  # learnt at full strength


def test_without_one_guided_stays_and_learnt_is_refused(refining):
    with Translator.load(refining, domain="summer") as translator:
        steps = FrameSteps(translator, 96, 64, lines=32)
        frame = picture(12)
        small = cv2.resize(frame, (48, 32), interpolation=cv2.INTER_AREA)
        assert np.array_equal(steps.finish(frame, steps.begin(frame)()), guided(frame, small, translator(small)))
        with pytest.raises(InputError, match="no refiner"):
            FrameSteps(translator, 96, 64, lines=32, refine="learnt")
    with pytest.raises(InputError, match="no refiner"):
        FrameSteps(as_frame_translator(lambda rgb: rgb), 96, 64, lines=32, refine="learnt")


def test_a_live_session_goes_on_in_a_direction_without_one(refining):
    frame = picture(13)
    prepare = Preparation(height=32, refine="learnt")
    small = prepare(frame, 32)
    for domain in ("winter", "summer"):
        with Translator.load(refining, domain=domain) as translator:
            found = prepare.refined(frame, small, 255 - small, translator)[1]
            assert np.array_equal(found, guided(frame, small, 255 - small)) == (domain == "summer")


def test_the_request_is_refused_before_work(refining, tmp_path):
    write_rgb(tmp_path / "a.png", picture(1))

    def resolve(domain, **changed):
        model = ModelOptions(model=refining, domain=domain, **changed)
        return resolve_request([str(tmp_path / "a.png")], model=model, options=VideoOptions(height=32, refine="learnt"))

    assert resolve("winter").options.refine == "learnt"
    with pytest.raises(InputError, match="has no refiner to summer"):
        resolve("summer")
    with pytest.raises(InputError, match="--strength 1"):
        resolve("winter", strength=0.5)


def test_the_command_trains_what_export_takes(tiny_bundle, tmp_path):
    (tmp_path / "photos").mkdir()
    for seed in range(4):
        write_rgb(tmp_path / "photos" / f"{seed}.png", picture(seed))
    out = tmp_path / "run"
    images = ("--domain", f"summer={tmp_path / 'photos'}")
    code, text, err = call(distill, tiny_bundle, "-o", out, *images, "--refiner", "--steps", 2, "--device", "cpu")
    assert code == 0, err
    assert "dB without the refiner (1 unseen images)" in text
    assert [path.name for path in out.iterdir()] == ["refiner.winter.safetensors"]
    assert load_refiner(refiner_file(out, "winter"))[1]["images"] == 3
    code, _, err = call(distill, tiny_bundle, "-o", tmp_path / "b", *images, "--refiner", "--preset", "paper")
    assert code == 2
    assert "--preset is for a student" in err


def test_older_readers_ignore_it(refining):
    """Those of format 2 take the keys that they know, as this one does with one that it does not know."""
    tree = json.loads((refining / "bundle.json").read_text())
    assert tree["format_version"] == 2
    tree["components"]["polisher"] = tree["components"].pop("refiner")
    (refining.parent / "newer").mkdir()
    shutil.copytree(refining, refining.parent / "newer", dirs_exist_ok=True)
    (refining.parent / "newer" / "bundle.json").write_text(json.dumps(tree))
    assert Bundle.read(refining.parent / "newer").manifest.components.refiner == {}


def test_only_what_translates_is_served_or_compiled(refining):
    """The page and a Triton server without dsmap have no use for it, and TensorRT would build an engine for nothing."""
    assert "refiner" not in TRANSLATING
    assert set(TRANSLATING) | {"refiner"} == set(Components.model_fields)
    update_card(refining, licence="MIT")  # into every graph
    assert read_stamp(refining / "refiner.winter.onnx")["licence"] == "MIT"
    Bundle.read(refining)


def test_one_domain_is_asked_for_where_none_was_passed(tiny_bundle, tmp_path):
    code, _, err = call(distill, tiny_bundle, "-o", tmp_path / "run", "--refiner")
    assert code == 2
    assert "--domain summer=FOLDER" in err
    assert " or --domain " in err  # either of the two
    assert "Two domains" not in err
