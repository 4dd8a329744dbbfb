"""Reading MUNIT's checkpoints: every form of the layout against a forward pass of its own, and refusals."""

import pickle

import numpy as np
import pytest
import torch

from dsmap.errors import InputError
from dsmap.model.cyclegan_checkpoint import read_generator
from dsmap.model.munit_checkpoint import build_munit, is_munit, read_munit
from tests.foreign_generators import munit_forward, munit_state, munit_style

DOMAINS = ("edges", "shoes")
STATES = {"a": munit_state(seed=1), "b": munit_state(seed=2)}


def of_both(change):
    return lambda states: {slot: change(state) for slot, state in states.items()}


def under(name):
    return lambda states: {name.format(slot): state for slot, state in states.items()}


def flat(name):
    return lambda states: {f"{name.format(slot)}.{key}": v for slot, one in states.items() for key, v in one.items()}


def renamed(old, new):
    return of_both(lambda state: {key.replace(old, new): value for key, value in state.items()})


def with_older_norms(states):
    """As PyTorch before 0.4 kept running statistics of instance norms, and layer norms (C, 1, 1) of a later trainer."""
    states = {slot: dict(state) for slot, state in states.items()}
    for state in states.values():
        state |= {f"enc_content.model.0.norm.running_{what}": torch.ones(8) for what in ("mean", "var")}
        state["enc_content.model.1.norm.num_batches_tracked"] = torch.tensor(3)
        for key in [key for key in state if key.endswith((".gamma", ".beta"))]:
            new = key.replace("gamma", "weight").replace("beta", "bias")
            state[new] = state.pop(key)[:, None, None]
    return states


@pytest.mark.parametrize(
    ("made", "written"),
    [
        ({}, dict),
        ({"width": 4, "blocks": 4, "style": 3, "mlp": 8}, dict),
        ({"width": 4, "downs": 1}, dict),
        ({"width": 4, "downs": 3, "blocks": 1}, under("gen_{}")),
        ({}, under("netG_{}")),
        ({}, flat("gen_{}")),
        ({}, flat("{}.module")),
        ({}, lambda states: {"state_dict": flat("gen_{}")(states), "epoch": 3}),
        ({}, lambda states: {"iterations": 7, "gen": dict(states)}),
        ({}, with_older_norms),
    ],
)
def test_every_form_of_the_layout_computes_what_it_says(tmp_path, made, written):
    states = {"a": munit_state(**made, seed=3), "b": munit_state(**made, seed=4)}
    torch.save(written(states), tmp_path / "gen.pt")
    model = build_munit(DOMAINS, read_munit(tmp_path / "gen.pt"))
    config = model.config
    assert (config.dim, config.n_res) == (made.get("width", 8), made.get("blocks", 2))
    assert (config.n_downsample, config.style_dim) == (made.get("downs", 2), made.get("style", 8))
    image_rgb = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    x_nchw = torch.from_numpy(image_rgb).permute(2, 0, 1)[None].float() / 127.5 - 1
    for source, target, names in (("a", "b", DOMAINS), ("b", "a", DOMAINS[::-1])):
        style = munit_style(states[target], image_rgb)
        assert np.abs(model.encode_style(x_nchw, names[1])[0].numpy() - style).max() < 1e-5 * max(
            1, np.abs(style).max()
        )
        out = model.decode(model.encode(x_nchw, names[0]), torch.from_numpy(style)[None], names[1])[0]
        got = ((out.permute(1, 2, 0) + 1) * 127.5).round().numpy()
        expected = munit_forward(states[source], states[target], image_rgb, style)
        assert expected.std() > 15
        assert np.abs(got - expected).max() <= 1
        assert (got != expected).mean() < 0.01


def test_a_file_that_python_2_wrote(tmp_path):
    """Published weights are of 2018: not a zip archive, and names as Python 2 pickled them."""

    class Old(pickle._Pickler):
        def save_bytes_of_text(self, text):
            data = text.encode()
            self.write(b"U" + bytes([len(data)]) + data)

        dispatch = pickle._Pickler.dispatch | {str: save_bytes_of_text}

    class Module:
        Pickler = Old

        @staticmethod
        def dump(tree, stream, protocol):
            Old(stream, protocol).dump(tree)

    torch.save(STATES, tmp_path / "gen.pt", pickle_module=Module, _use_new_zipfile_serialization=False)
    model = build_munit(DOMAINS, read_munit(tmp_path / "gen.pt"))
    assert torch.equal(model.decoders["b"].tail.weight, STATES["b"]["dec.model.5.conv.weight"])


def changed(slot="b", **values):
    return STATES | {slot: STATES[slot] | {key.replace("__", "."): value for key, value in values.items()}}


def without(key):
    return STATES | {"b": {name: value for name, value in STATES["b"].items() if name != key}}


@pytest.mark.parametrize(
    ("written", "fact"),
    [
        ({"a": STATES["a"]}, r"holds 1 generators \(a\), expected two"),
        (STATES["a"], r"holds 1 generators \(without a name\)"),
        (STATES | {"c": STATES["a"]}, r"holds 3 generators \(a, b, c\)"),
        ({"x": STATES["a"], "y": STATES["b"]}, r"holds 2 generators \(x, y\), expected two, a and b"),
        ({"a": {"enc_content.prelayer_a.0.conv.weight": torch.ones(1)}}, "holds generators of DSMAP"),
        ({"a": {"enc.model.0.conv.weight": torch.ones(1)}}, "without a style encoder, as UNIT has"),
        ({"a": {"cnns.0.0.conv.weight": torch.ones(1)}}, "holds discriminators"),
        ([1, 2], "holds no weights"),
        (without("dec.model.2.norm.gamma"), "b lacks 1 weights, the first is dec.model.2.norm.weight"),
        (without("enc_style.model.6.weight"), "lacks enc_style.model.6.weight"),
        (without("mlp.model.1.fc.bias"), "lacks 1 weights, the first is mlp.model.1.fc.bias"),
        (changed(mlp__model__3__fc__weight=torch.ones(2, 2)), "has 1 weights that MUNIT's generator does not"),
        (changed(enc_content__model__0__norm__weight=torch.ones(8)), "norms with weights in its encoders"),
        (changed(dec__model__2__activation__weight=torch.ones(1)), "activations with weights"),
        (changed(dec__model__2__conv__weight_bar=torch.ones(1)), "spectral norms"),
        (changed(dec__model__5__conv__weight=torch.ones(1, 8, 7, 7)), "images of 1 channels"),
        (changed(enc_content__model__0__conv__weight=torch.ones(8)), r"has the shape \(8,\), expected 4 sides"),
        (changed(dec__model__4__conv__weight=torch.ones(8, 8, 5, 5)), r"has the shape \(8, 8, 5, 5\), expected"),
        (changed(enc_style__model__3__conv__weight=torch.ones(64, 32, 4, 4)), "style_encoders.b.downs.2.weight has"),
        (changed(dec__model__5__conv__bias=torch.full((3,), torch.nan)), "not of finite numbers"),
        (changed(dec__model__5__conv__bias=torch.full((3,), 1e300, dtype=torch.float64)), "not of finite numbers"),
        (changed(dec__model__5__conv__bias=torch.ones(3).to_sparse()), "not an array of numbers that the file holds"),
        (changed(dec__model__5__conv__bias=torch.ones(3, device="meta")), "not an array of numbers"),
        (changed(dec__model__5__conv__bias=torch.ones(3, dtype=torch.int64)), "not an array of numbers"),
        (changed(mlp__model__0__fc__weight=torch.ones(1).expand(10**12, 2)), "not an array of numbers"),
        (changed(dec__model__2__norm__weight=torch.ones(8)), "both dec.model.2.norm.gamma and dec.model.2.norm.weight"),
        (changed(**{f"enc_content__model__{'9' * 5000}__conv__weight": torch.ones(1)}), "weights that MUNIT's"),
        ({"a": munit_state(blocks=2), "b": munit_state(blocks=3)}, "differ: n_res 2 and 3"),
        (
            {"a": munit_state(width=1), "b": munit_state(width=1)},
            "the network cannot be: dim: .*greater than or equal to 2",
        ),
    ],
)
def test_what_is_no_such_checkpoint_is_named(tmp_path, written, fact):
    torch.save(written, tmp_path / "gen.pt")
    with pytest.raises(InputError, match=fact) as refusal:
        build_munit(DOMAINS, read_munit(tmp_path / "gen.pt"))
    assert refusal.value.advice


def test_the_trainers_are_told_apart(tmp_path):
    assert is_munit(STATES)
    assert not is_munit({"model.1.weight": torch.ones(1)})
    assert not is_munit([1])
    torch.save(STATES, tmp_path / "gen.pt")
    with pytest.raises(InputError, match="generators with a content encoder, as MUNIT has"):
        read_generator(tmp_path / "gen.pt")


def test_nothing_in_a_file_is_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "run"), "w"))

    torch.save(STATES | {"c": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(InputError, match=r"not a file of plain weights \(it holds \S*open, which is code\)"):
        read_munit(tmp_path / "trap.pt")
    assert not (tmp_path / "run").exists()
