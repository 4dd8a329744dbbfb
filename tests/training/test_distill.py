"""dsmap-distill: a network that learns to draw what another one draws."""

import copy
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from commands import call
from tiny import make_model, squeezenet_weights
from training_helpers import SMALL, Colours, batches_of, image, means

from dsmap.errors import DsmapError, InputError
from dsmap.export.trained_model import open_checkpoint
from dsmap.model.dsmap import initialise_generators
from dsmap.tools import distill as tool
from dsmap.tools import train
from dsmap.training.checkpoint import find_checkpoint, load_generators, read_checkpoint
from dsmap.training.distill import distill, psnr_to_teacher
from dsmap.training.distill_run import student_config
from dsmap.training.requests import DistillRequest
from dsmap.training.resume import check_resumable


def new_student(**changed):
    torch.manual_seed(5)
    model = make_model(**SMALL, dim=12, **changed)
    initialise_generators(model)
    return model


def soft(step):
    """Two soft images without grain, (2, 3, 48, 48)."""
    generator = torch.Generator().manual_seed(step)
    coarse = torch.rand(2, 3, 4, 4, generator=generator) * 1.6 - 0.8
    return F.interpolate(coarse, (48, 48), mode="bilinear")


def test_a_student_of_another_shape_comes_near():
    teacher, student = make_model(**SMALL).eval(), new_student(n_res=2)
    unseen = [soft(1000 + i) for i in range(4)]
    style = torch.tensor(means(teacher)["b"])
    before = psnr_to_teacher(teacher, student, unseen, "b", style)
    batches = batches_of(soft, lambda step: soft(500 + step))
    told = list(distill(teacher, student, batches, means(teacher), steps=120, lr=5e-3))
    after = psnr_to_teacher(teacher, student, unseen, "b", style)
    assert after > before + 3
    assert [now.step for now in told] == list(range(1, 121))
    thirds = [np.mean([now.style for now in part]) for part in (told[:40], told[80:])]
    assert thirds[1] < 0.7 * thirds[0]  # the codes of images are learnt, in both domains
    assert not any(parameter.requires_grad for parameter in student.parameters())


def test_every_part_learns_and_the_teacher_stays():
    teacher, student = make_model(**SMALL).eval(), new_student()
    as_it_was, at_first = copy.deepcopy(teacher.state_dict()), copy.deepcopy(student.state_dict())
    for _ in distill(teacher, student, batches_of(soft, soft), means(teacher), steps=8, features=Colours()):
        pass
    assert all(torch.equal(value, as_it_was[name]) for name, value in teacher.state_dict().items())
    parts = {".".join(name.split(".")[:2]) for name, value in student.state_dict().items()
             if not torch.equal(value, at_first[name])}  # fmt: skip
    expected = {f"{part}.{slot}" for slot in "ab"
                for part in ("content_encoders", "mappings", "style_encoders", "style_mlps", "decoders")}  # fmt: skip
    assert parts - {"shared_encoder.block"} == expected
    assert "shared_encoder.block" in parts


def test_the_likeness_is_a_psnr():
    model, images = make_model(**SMALL).eval(), [soft(0), soft(1)]
    style = torch.tensor(means(model)["b"])
    assert psnr_to_teacher(model, model, images, "b", style) == float("inf")
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.decoders["b"].tail.bias.add_(0.01)
        drawn = [[m.translate(x, "a", "b", style.expand(2, -1)) for x in images] for m in (model, other)]
    grey = [np.concatenate([(y.numpy() + 1) * 127.5 for y in one]) for one in drawn]
    expected = 10 * np.log10(255**2 / np.square(grey[0] - grey[1]).mean())
    assert psnr_to_teacher(model, other, images, "b", style) == pytest.approx(expected, abs=1e-3)


def test_a_loss_that_is_not_finite_is_told():
    teacher, student = make_model(**SMALL).eval(), new_student()
    broken = batches_of(lambda step: image(step) * float("nan"), image)
    with pytest.raises(DsmapError, match="not finite at step 1"):
        list(distill(teacher, student, broken, means(teacher), steps=2))


STUDENT = (
    "--preset", "lite", "--set", "model.dim=8", "--set", "model.n_res=1", "--set", "identity_init=false",
    "--set", "data.shorter_side=64", "--set", "data.crop=48", "--set", "data.scale_jitter=[0.8,1.0]",
    "--set", "discriminator.n_layers=1", "--set", "discriminator.features=false", "--set", "data.workers=0",
    "--device", "cpu", "--batch-size", "1",
)  # fmt: skip


def test_the_command(checkpoint, image_folder, tmp_path):
    np.savez(tmp_path / "net.npz", **squeezenet_weights())
    given = "--data", image_folder, *STUDENT, "--steps", 6, "--seed", 4, "--features", tmp_path / "net.npz"
    code, out, err = call(tool, checkpoint, "-o", tmp_path / "run", *given)
    assert code == 0, err
    assert "step 6/6" in out
    assert [line.split(":")[0] for line in out.splitlines() if "dB PSNR" in line] == ["to winter", "to summer"]
    found = read_checkpoint(tmp_path / "run")
    assert (found.step, found.config.model.dim, found.config.model.domains) == (6, 8, ("summer", "winter"))
    assert found.config.model.style_dim == read_checkpoint(checkpoint).config.model.style_dim
    assert found.distilled is not None
    assert found.distilled["features"] == "net.npz"
    assert open_checkpoint(tmp_path / "run").provenance["distilled"] == found.distilled
    ours = load_generators(found).state_dict()
    code, _, err = call(tool, checkpoint, "-o", tmp_path / "again", *given)
    assert code == 0, err
    again = load_generators(read_checkpoint(tmp_path / "again")).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in ours.items())
    with pytest.raises(InputError, match="was written by dsmap-distill"):
        check_resumable(found, found.config, tmp_path / "run")
    # An adversarial training can go on from there.
    further = "--preset", "lite", "--features", "none", "--start-from", tmp_path / "run", "--data", image_folder
    code, _, err = call(train, *further, "-o", tmp_path / "further", "--dry-run", *STUDENT[6:-4])
    assert code == 0, err
    assert find_checkpoint(tmp_path / "run").name == "00000006"


def test_a_broken_unseen_image_costs_no_training(checkpoint, image_folder, tmp_path):
    data = shutil.copytree(image_folder, tmp_path / "data")
    for name, of in (("testA", "trainA"), ("testB", "trainB")):
        shutil.copytree(data / of, data / name)
    for path in (next((data / "testA").iterdir()), *(data / "testB").iterdir()):
        path.write_bytes(b"no image")
    code, out, err = call(tool, checkpoint, "-o", tmp_path / "run", "--data", data, *STUDENT, "--steps", 1)
    assert code == 0, err
    assert "(mean style, 2 unseen images)" in out
    assert "to summer:" not in out
    found = read_checkpoint(tmp_path / "run").distilled
    assert found is not None
    assert list(found["psnr"]) == ["winter"]


@pytest.mark.parametrize(
    ("given", "fact"),
    [
        (("--lr", "2"), "--lr is 2"),
        (("--perceptual", "1"), "--perceptual needs --features"),
        (("--perceptual", "nan", "--features", "f.npz"), "--perceptual is nan"),
        (("--set", "model.style_dim=4"), "--set model.style_dim is given"),
        (("--set", "model.domains=[a,b]"), "--set model.domains is given"),
        (("--set", "model.dimm=4"), "unknown key 'model.dimm'"),
        (("--preset", "huge"), "no preset named 'huge'"),
        (("--features", "none.npz"), "none.npz"),
    ],
)
def test_wrong_input_is_told(given, fact, checkpoint, image_folder, tmp_path):
    code, _, err = call(tool, checkpoint, "-o", tmp_path / "run", "--data", image_folder, *given)
    assert (code, len(err.splitlines())) == (2, 2)
    assert fact in err
    assert not (tmp_path / "run").exists()


def test_a_teacher_that_is_none_is_told(image_folder, tmp_path):
    code, _, err = call(tool, tmp_path / "nothing", "-o", tmp_path / "run", "--data", image_folder)
    assert code == 2
    assert "does not exist" in err


def test_contrast_is_the_teachers_unless_set(checkpoint, tmp_path):
    teacher = read_checkpoint(checkpoint).config.model.model_copy(update={"contrast": (1.1, 1.2)})
    chosen = [student_config(teacher, DistillRequest(out=tmp_path, overrides=overrides, steps=5)).model.contrast
              for overrides in ([], ["model.contrast=[1,1]"], ["model.output=clip"])]  # fmt: skip
    assert chosen == [(1.1, 1.2), (1, 1), (1, 1)]
