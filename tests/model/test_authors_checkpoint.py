"""The authors' checkpoints: loaded number for number, and refused in words, without running anything in them."""

import os
import pickle

import pytest
import torch
import yaml
from authors import official_discriminators, official_generators, official_yaml, write_checkpoint
from tiny import images, make_discriminators, make_model, styles

from dsmap.config import LossWeights
from dsmap.errors import InputError
from dsmap.model.authors_checkpoint import (
    discriminator_key_map,
    generator_key_map,
    load_discriminator_weights,
    load_official,
    official_discriminator_config,
    official_loss_weights,
    read_state_dicts,
)


def refused(path, config, **how):
    with pytest.raises(InputError) as caught:
        load_official(path, config, **how)
    assert caught.value.advice
    return f"{caught.value.fact}\n{caught.value.advice}"


@pytest.mark.parametrize("changed", [{}, {"n_res": 3, "pad_type": "zero", "style_dim": 5}, {"mapping": False}])
def test_their_weights_give_the_same_images(tmp_path, changed):
    model, x, = make_model(**changed).eval(), images()  # fmt: skip
    loaded = load_official(*write_checkpoint(tmp_path, model), domains=("cat", "dog"))
    assert not loaded.training
    assert loaded.config == model.config.model_copy(update={"domains": ("cat", "dog")})
    style = styles(size=model.config.style_dim)
    for (source, target), (slot, other) in ((("cat", "dog"), "ab"), (("dog", "cat"), "ba")):
        expected = model.translate(x[slot], slot, other, style[other])
        assert torch.equal(loaded.translate(x[slot], source, target, style[other]), expected)
        assert torch.equal(loaded.encode_style(x[slot], source), model.encode_style(x[slot], slot))
        content = loaded.encode(x[slot], source)  # the mapping back is trained too
        assert torch.equal(loaded.map(content, source), model.map(model.encode(x[slot], slot), slot))


def test_every_weight_has_a_name():
    model, discriminators = make_model(n_res=2), make_discriminators()
    assert set(generator_key_map(model).values()) == {name for name, _ in model.named_parameters()}
    names = discriminator_key_map(discriminators)
    assert sorted(names.values()) == sorted(name for name, _ in discriminators.named_parameters())


def test_their_discriminators():
    ours, fresh, x = make_discriminators(1), make_discriminators(2), images()
    load_discriminator_weights(fresh, official_discriminators(ours), "dis.pt")
    for slot in ("a", "b"):
        for expected, logits in zip(ours[slot](x[slot]), fresh[slot](x[slot]), strict=True):
            assert torch.equal(expected, logits)
    assert not torch.equal(ours["a"](x["a"])[0], fresh["b"](x["a"])[0])


def test_a_munit_checkpoint_may_carry_an_unused_mapping(tmp_path):
    model, other = make_model(mapping=False), make_model(7)
    path, config = write_checkpoint(tmp_path, model)
    states = official_generators(model)
    for slot in ("a", "b"):
        states[slot] |= {k: v for k, v in official_generators(other)[slot].items() if k.startswith("domain_mapping.")}
    torch.save(states, path)
    x, style = images()["a"], styles()["b"]
    assert torch.equal(load_official(path, config).translate(x, "a", "b", style), model.translate(x, "a", "b", style))


def test_their_settings():
    config = official_yaml(make_model())
    assert official_loss_weights(config) == LossWeights(contextual=0)
    assert official_loss_weights(config | {"recon_x_cyc_w": 7, "recon_d_w": 3}).model_dump() == {
        "image": 10, "domain_content": 3, "shared_content": 2, "style": 10, "cycle": 7, "adversarial": 1,
        "contextual": 0, "mode_seeking": 0, "kl": 0, "appearance": 0, "feature_matching": 0,
    }  # fmt: skip
    discriminator = official_discriminator_config(config)
    assert (discriminator.dim, discriminator.n_layers, discriminator.n_scales) == (4, 4, 3)
    assert (discriminator.gan_type, discriminator.pad_type) == ("lsgan", "reflect")
    for section, expected in (
        ({}, "no `dis:` section"),
        ({"dis": {"norm": "sn"}}, "dis.norm is 'sn'"),
        ({"dis": {"activ": "relu"}}, "dis.activ is 'relu'"),
        ({"dis": {"gan_type": "wgan"}}, "gan_type"),
    ):
        with pytest.raises(InputError, match=expected):
            official_discriminator_config(section)


# What is refused.


class Malicious:
    """Unpickled, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("how", ["torch", "torch legacy", "pickle", "beside the weights"])
def test_code_in_a_checkpoint_is_not_run(tmp_path, how):
    trace = tmp_path / "it ran"
    path, config = write_checkpoint(tmp_path, make_model())
    states = {"a": {"weight": Malicious(trace)}, "b": {}}
    if how == "beside the weights":
        states = official_generators(make_model()) | {"optimizer": Malicious(trace)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(states, protocol=2))
        pickle.loads(path.read_bytes())
    else:
        torch.save(states, path, _use_new_zipfile_serialization=how != "torch legacy")
        torch.load(path, weights_only=False)
    trace.rmdir()  # it is malicious: it ran just now
    message = refused(path, config)
    assert not trace.exists()
    assert f"{path} is not a file of plain weights" in message
    assert "Nothing in it was run." in message


def test_files_that_are_no_checkpoint(tmp_path):
    path, config = write_checkpoint(tmp_path, make_model())
    whole = path.read_bytes()
    assert f"{tmp_path / 'gone.pt'}: No such file" in refused(tmp_path / "gone.pt", config)
    assert "it is not a regular file" in refused(tmp_path, config)
    for content in (b"", b"hello", whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert "not a file of plain weights" in refused(path, config)
    state = {"weight": torch.zeros(1)}
    for content, expected in (
        ([1, 2], "holds list; expected the state dicts 'a' and 'b'"),
        ({}, "holds nothing; expected the state dicts"),
        ({"state_dict": state, "epoch": 3}, "holds state_dict, epoch; expected"),
        ({"a": state}, "holds a; expected"),
        ({"a": state, "b": torch.zeros(1)}, "holds a, b; expected"),
        ({"a": state, "b": {"weight": 3}}, "entry 'weight' of 'b' is a int, not a tensor"),
        ({"a": {3: torch.zeros(1)}, "b": state}, "entry 3 of 'a'"),
    ):
        torch.save(content, path)
        message = refused(path, config)
        assert expected in message
        assert "gen_XXXXXXXX.pt" in message


def test_weights_that_do_not_fit(tmp_path):
    model = make_model()
    path, config = write_checkpoint(tmp_path, model)

    def saved(change):
        states = official_generators(model)
        change(states)
        torch.save(states, path)
        message = refused(path, config)
        assert "Check that the YAML is the one" in message
        return message

    tail = "dec.model.7.conv.bias"
    assert f"lacks 1 weights, the first is b.{tail}" in saved(lambda s: s["b"].pop(tail))
    assert "has 1 weights this network does not, the first is a.enc_style.model.7.weight" in saved(
        lambda s: s["a"].update({"enc_style.model.7.weight": torch.zeros(1)})
    )
    assert f"a.{tail} has shape (4,), expected (3,)" in saved(lambda s: s["a"].update({tail: torch.zeros(4)}))
    assert "has 1 weights this network does not, the first is b.domain_mapping.layer3.0.conv.bias" in saved(
        lambda s: s["b"].update({"domain_mapping.layer3.0.conv.bias": torch.zeros(1)})
    )
    mapping = "domain_mapping.layer1.0.conv.weight"
    assert f"lacks 1 weights, the first is a.{mapping}" in saved(lambda s: s["a"].pop(mapping))


@pytest.mark.parametrize(
    ("changed", "expected"), [({"dim": 8}, "has shape"), ({"n_res": 2}, "lacks"), ({"style_dim": 8}, "has shape")]
)
def test_yaml_of_another_size(tmp_path, changed, expected):
    model = make_model()
    path, config = write_checkpoint(tmp_path, model)
    tree = official_yaml(model)
    config.write_text(yaml.safe_dump(tree | {"gen": tree["gen"] | changed}))
    message = refused(path, config)
    assert expected in message
    assert "Check that the YAML is the one" in message
    config.write_text(yaml.safe_dump(tree | {"gen": tree["gen"] | {"n_res": 0}}))
    assert "n_res" in refused(path, config)


def test_a_yaml_of_fewer_blocks_than_the_checkpoint(tmp_path):
    path, _ = write_checkpoint(tmp_path / "long", make_model(n_res=2))
    _, config = write_checkpoint(tmp_path / "short", make_model(n_res=1))
    assert "weights this network does not" in refused(path, config)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"kl_mode": True}, "gen.kl_mode is True"),
        ({"mid_downsample": 2}, "gen.mid_downsample is 2"),
        ({"activ": "lrelu"}, "gen.activ is 'lrelu'"),
        ({"pad_type": "circular"}, "pad_type"),
    ],
)
def test_variants_without_a_network_here(tmp_path, changed, expected):
    model = make_model()
    path, config = write_checkpoint(tmp_path, model)
    tree = official_yaml(model)
    config.write_text(yaml.safe_dump(tree | {"gen": tree["gen"] | changed}))
    message = refused(path, config)
    assert expected in message
    assert "supported: " in message or "'reflect', 'replicate' or 'zero'" in message
    config.write_text(yaml.safe_dump(tree | {"input_dim_a": 1}))
    assert "input_dim_a is 1" in refused(path, config)


def test_yaml_files_that_are_not_theirs(tmp_path):
    path, config = write_checkpoint(tmp_path, make_model())
    assert "cannot read" in refused(path, tmp_path / "gone.yaml")
    for content in (b"", b"dis: {}", b"gen: 3"):
        config.write_bytes(content)
        assert "has no `gen:` section" in refused(path, config)
    config.write_bytes(b"- 1")
    assert "holds a list, expected keys and values" in refused(path, config)
    config.write_bytes(b"gen: {")
    assert "is not valid YAML" in refused(path, config)
    config.write_bytes(b"\xff\xfe\x00")
    assert "cannot read" in refused(path, config)


def test_a_network_is_not_made_before_the_file_is_known_to_hold_it(tmp_path):
    path, config = write_checkpoint(tmp_path, make_model())
    tree = yaml.safe_load(config.read_text())
    tree["gen"] |= {"dim": 4096, "n_res": 64}  # a terabyte
    config.write_text(yaml.safe_dump(tree))
    assert "the network of the YAML has" in refused(path, config)


def test_domain_names_are_checked(tmp_path):
    path, config = write_checkpoint(tmp_path, make_model())
    assert "different names" in refused(path, config, domains=("cat", "cat"))


@pytest.mark.parametrize("name", ["tiny", "tiny_zero_pad"])
def test_the_names_here_are_those_of_their_files(shared, name):
    folder = shared / "golden" / name
    gen, dis = (read_state_dicts(next(folder.glob(pattern))) for pattern in ("gen_*.pt", "dis_*.pt"))
    model = load_official(next(folder.glob("gen_*.pt")), folder / "config.yaml")
    ours = official_generators(model)
    for slot in ("a", "b"):
        theirs = {k: v for k, v in gen[slot].items() if not k.endswith("num_batches_tracked")}
        assert {k: v.shape for k, v in ours[slot].items()} == {k: v.shape for k, v in theirs.items()}
        assert torch.equal(ours[slot]["dec.model.7.conv.weight"], theirs["dec.model.7.conv.weight"])
        assert official_discriminators(make_discriminators())[slot].keys() == dis[slot].keys()
