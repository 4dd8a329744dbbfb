"""Reading CycleGAN's checkpoints: every form of the layout against a forward pass of its own, and refusals."""

import numpy as np
import pytest
import torch

from dsmap.errors import InputError
from dsmap.model.cyclegan_checkpoint import build_cyclegan, read_generator
from tests.foreign_generators import cyclegan_forward, cyclegan_state

DOMAINS = ("summer", "winter")


def with_running_statistics(state):
    """As PyTorch before 0.4 kept them for instance norms."""
    norms = [key.removesuffix(".bias").rsplit(".", 1) for key in state if key.endswith(".bias")]
    for start, place in norms[:-1]:
        width = len(state[f"{start}.{place}.bias"])
        state = state | {f"{start}.{int(place) + 1}.running_{what}": torch.ones(width) for what in ("mean", "var")}
    return state | {"model.2.num_batches_tracked": torch.tensor(7)}


def prefixed(prefix):
    return lambda state: {f"{prefix}{key}": value for key, value in state.items()}


@pytest.mark.parametrize(
    ("made", "written"),
    [
        ({"blocks": 9, "width": 4}, dict),
        ({"blocks": 6, "width": 6}, prefixed("module.")),
        ({"dropout": True}, dict),
        ({"biases": False}, dict),
        ({}, with_running_statistics),
        ({}, prefixed("netG.module.")),
        ({}, lambda state: {"netG": state, "epoch": 200}),
        ({}, lambda state: {"state_dict": prefixed("netG_A.")(state) | {"netD_A.model.0.weight": torch.ones(1)}}),
        ({}, lambda state: {"epoch": 3, "models": {"netG": prefixed("module.")(state)}}),
        ({"dropout": True}, lambda state: {key: value.half().float() for key, value in state.items()}),
    ],
)
def test_every_form_of_the_layout_gives_its_own_forward(tmp_path, made, written):
    state = cyclegan_state(seed=3, **made)
    path = tmp_path / "latest_net_G_A.pth"
    form = written(state)
    torch.save(form, path)
    if all(isinstance(value, torch.Tensor) for value in form.values()) and len(form) == len(state):
        state = dict(zip(state, form.values(), strict=True))
    generator = read_generator(path)
    assert (generator.dim, generator.n_res) == (made.get("width", 8), made.get("blocks", 2))
    model = build_cyclegan(DOMAINS, {"winter": generator})
    image_rgb = np.random.default_rng(0).integers(0, 256, (20, 28, 3), np.uint8)
    x_nchw = torch.from_numpy(image_rgb).permute(2, 0, 1)[None].float() / 127.5 - 1
    out = model.decode(model.encode(x_nchw, "summer"), "winter")[0].permute(1, 2, 0)
    got = ((out + 1) * 127.5).round().numpy()
    expected = cyclegan_forward(state, image_rgb)
    assert expected.std() > 20
    assert np.abs(got - expected).max() <= 1
    assert (got != expected).mean() < 0.01


STATE = cyclegan_state()


def without(*keys):
    return {key: value for key, value in STATE.items() if key not in keys}


@pytest.mark.parametrize(
    ("written", "fact"),
    [
        ([1, 2], "holds a list"),
        ({"epoch": 7}, "holds no weights"),
        ({"model.model.0.weight": torch.ones(4)}, "a U-Net generator"),
        ({"model.0.weight": torch.ones(4), "model.2.weight": torch.ones(4)}, "begins without padding"),
        ({"a": {"enc_content.model.0.conv.weight": torch.ones(1)}}, "as MUNIT has"),
        (STATE | {"model.2.weight": torch.ones(8), "model.2.bias": torch.ones(8)}, "--norm batch"),
        (STATE | {"model.6.filt": torch.ones(8)}, "filters against aliasing"),
        (STATE | {"model.30.weight": torch.ones(8)}, "has 1 weights that CycleGAN's generator does not"),
        (without("model.15.weight"), "lacks 1 weights, the first is model.15.weight"),
        (without("model.10.conv_block.5.weight"), "lacks 1 weights"),
        ({key.replace("conv_block.5", "conv_block.4"): v for key, v in STATE.items()}, "blocks of another form"),
        (STATE | {"model.1.weight": torch.ones(8, 1, 7, 7)}, "takes images of 1 channels"),
        (STATE | {"model.19.weight": torch.ones(1, 8, 7, 7)}, "gives images of 1 channels"),
        (STATE | {"model.4.weight": torch.ones(8, 8, 3, 3)}, r"downs.0.weight has the shape \(8, 8, 3, 3\)"),
        (STATE | {"model.4.bias": torch.ones(3)}, r"downs.0.bias has the shape \(3,\)"),
        (STATE | {"model.1.weight": torch.full((8, 3, 7, 7), torch.nan)}, "not of finite numbers"),
        ({"netG_A": STATE, "netG_B": STATE}, "holds 2 generators: netG_A, netG_B"),
        (STATE | {"model.1.weight": torch.ones(1).expand(10**12, 3, 7, 7)}, "not an array of numbers that the file"),
        (STATE | {f"model.{'9' * 5000}.conv_block.1.weight": torch.ones(1)}, "has 1 weights that CycleGAN's"),
    ],
)
def test_what_is_no_such_generator_is_named(tmp_path, written, fact):
    torch.save(written, tmp_path / "file.pth")
    with pytest.raises(InputError, match=fact) as refusal:
        build_cyclegan(DOMAINS, {"winter": read_generator(tmp_path / "file.pth")})
    assert refusal.value.advice


def test_nothing_in_a_file_is_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "run"), "w"))

    torch.save({"netG": Trap()}, tmp_path / "trap.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for name in ("trap", "text", "missing"):
        with pytest.raises(InputError):
            read_generator(tmp_path / f"{name}.pth")
    assert not (tmp_path / "run").exists()


def test_two_generators_of_different_sizes(tmp_path):
    for name, blocks in (("a", 2), ("b", 3)):
        torch.save(cyclegan_state(blocks=blocks), tmp_path / f"{name}.pth")
    generators = dict(zip(DOMAINS, (read_generator(tmp_path / f"{name}.pth") for name in "ab"), strict=True))
    with pytest.raises(InputError, match=r"a\.pth has 2 blocks of width 8 and b\.pth has 3 blocks"):
        build_cyclegan(DOMAINS, generators)
