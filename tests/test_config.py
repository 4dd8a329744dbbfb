"""Training settings: presets, files, --set and flags over one another, and words for what does not fit."""

import re

import pytest
import yaml
from pydantic import ValidationError

from dsmap.config import (
    DataConfig,
    DiscriminatorConfig,
    ModelConfig,
    TrainConfig,
    known_keys,
    load_train_config,
    preset_names,
)
from dsmap.errors import InputError


def refused(*overrides, preset="paper", config_path=None):
    with pytest.raises(InputError) as caught:
        load_train_config(preset, config_path, overrides)
    assert caught.value.advice
    return str(caught.value)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_parses(name):
    config = load_train_config(name)
    assert isinstance(config, TrainConfig)
    assert load_train_config("paper", None, [], **config.model_dump(mode="json")) == config


def test_the_presets_there_are():
    assert set(preset_names()) >= {"paper", "lite", "debug"}
    message = refused(preset="papr")
    assert "no preset named 'papr'" in message
    assert all(name in message for name in preset_names())


def test_the_paper_preset_is_the_published_training():
    config = load_train_config("paper")
    assert config == TrainConfig()
    model, optimizer, data, loss = config.model, config.optimizer, config.data, config.loss
    assert (model.dim, model.style_dim, model.mlp_dim, model.n_downsample, model.n_res) == (64, 8, 256, 2, 4)
    assert (model.content_dim, model.multiple_of, model.pad_type, model.mapping) == (256, 8, "reflect", True)
    assert (optimizer.lr, optimizer.beta1, optimizer.beta2, optimizer.weight_decay) == (1e-4, 0.5, 0.999, 1e-4)
    assert (optimizer.schedule, optimizer.step_size, optimizer.gamma, config.steps) == ("step", 100_000, 0.5, 200_000)
    assert (data.shorter_side, data.crop, data.batch_size, data.flip) == (192, 192, 2, True)
    assert (loss.image, loss.domain_content, loss.shared_content, loss.style) == (10, 2, 2, 10)
    assert (loss.cycle, loss.adversarial, loss.contextual, loss.kl) == (5, 1, 1, 0)
    assert (config.discriminator.n_scales, config.discriminator.n_layers) == (3, 4)
    assert config.discriminator.minimum_size == 64
    judged = {pad: DiscriminatorConfig(features=True, n_scales=1, shift=3, pad_type=pad) for pad in ("zero", "reflect")}
    assert {pad: judge.minimum_size for pad, judge in judged.items()} == {"zero": 35, "reflect": 43}


@pytest.mark.parametrize(
    ("override", "section", "key", "expected"),
    [
        ("loss.cycle=3", "loss", "cycle", 3.0),
        ("optimizer.lr=1e-4", "optimizer", "lr", 1e-4),  # YAML 1.1 takes this for text
        ("optimizer.lr=2.5E-5", "optimizer", "lr", 2.5e-5),
        ("data.scale_jitter=[1.0, 1.25]", "data", "scale_jitter", (1.0, 1.25)),
        ("model.mapping=no", "model", "mapping", False),
        ("model.domains=[summer, winter]", "model", "domains", ("summer", "winter")),
        ("model.pad_type=zero", "model", "pad_type", "zero"),
        ("features=/a folder/squeeze=net.npz", None, "features", "/a folder/squeeze=net.npz"),
    ],
)
def test_overrides(override, section, key, expected):
    config = load_train_config("paper", None, [override])
    value = getattr(getattr(config, section) if section else config, key)
    assert value == expected
    assert type(value) is type(expected)


def test_preset_then_file_then_set_then_flags(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("steps: 30\nseed: 31\nlog_every: 32\ndata:\n  batch_size: 33\n")
    preset = load_train_config("debug")
    config = load_train_config("debug", file, ["steps=40", "seed=41"], steps=50, features=None)
    assert (config.steps, config.seed, config.log_every, config.data.batch_size) == (50, 41, 32, 33)
    assert config.model == preset.model  # what nobody names stays the preset's, inside sections too
    assert config.data.crop == preset.data.crop
    assert config.features == preset.features
    assert load_train_config("debug", None, ["seed=1", "seed=2"]).seed == 2


def test_flags_inside_a_section_leave_the_rest_of_it():
    config = load_train_config("debug", None, ["model.n_res=2"], model={"domains": ["cat", "dog"]})
    assert (config.model.domains, config.model.n_res, config.model.dim) == (("cat", "dog"), 2, 4)


def test_what_a_run_writes_can_be_read_again(tmp_path):
    config = load_train_config("lite", None, ["optimizer.lr=3e-4", "model.domains=[cat, dog]"])
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_train_config("paper", file) == config


@pytest.mark.parametrize(
    ("override", "key", "advice"),
    [
        ("loss.cylce=3", "loss.cylce", "Did you mean loss.cycle?"),
        ("cycle=3", "cycle", "Did you mean loss.cycle?"),
        ("los.cycle=3", "los.cycle", "Did you mean loss.cycle?"),
        ("optimiser.lr=1", "optimiser.lr", "Did you mean optimizer."),
        ("model.dims=3", "model.dims", "Did you mean model.dim"),
        ("stesp=3", "stesp", "Did you mean steps?"),
        ("zzzzzzzz=3", "zzzzzzzz", "Known keys: model.domains, "),
    ],
)
def test_unknown_keys_name_the_nearest(override, key, advice):
    message = refused(override)
    assert f"unknown key '{key}'" in message
    assert advice in message


def test_known_keys():
    keys = known_keys(TrainConfig)
    assert {"model.dim", "loss.contextual", "data.workers", "steps"} <= set(keys)
    assert not {"model", "loss", "data"} & set(keys)
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["steps=0"], r"steps: .*greater than or equal to 1, got 0"),
        (["steps=many"], r"steps: .*valid integer.*, got 'many'"),
        (["loss.cycle=-1"], r"loss.cycle: .*greater than or equal to 0, got -1"),
        (["optimizer.lr=0"], r"optimizer.lr: .*greater than 0, got 0"),
        (["optimizer.lr=nan"], r"optimizer.lr: .*, got nan"),
        (["optimizer.lr=.inf"], r"optimizer.lr: .*finite.*, got inf"),
        (["ema_decay=1"], r"ema_decay: .*less than 1, got 1"),
        (["model.pad_type=mirror"], r"model.pad_type: .*'reflect', 'replicate' or 'zero', got 'mirror'"),
        (["discriminator.gan_type=wgan"], r"gan_type: .*'lsgan', 'nsgan' or 'ralsgan', got 'wgan'"),
        (["loss=3"], r"loss: .*, got 3"),
        (["loss.cycle.more=3"], r"loss.cycle: .*valid number"),
        (["data.crop=200"], r"data.crop \(200\) must not exceed data.shorter_side .*\(192\)"),
        (["data.scale_jitter=[0.5, 1.0]"], r"data.crop \(192\) must not exceed .*scale_jitter \(96\)"),
        (["data.scale_jitter=[1.2, 1.0]"], r"scale_jitter must be 0 < min <= max, got 1.2, 1"),
        (["data.crop=100"], r"data.crop must be a multiple of 8, got 100"),
        (["data.crop=100", "model.n_downsample=3"], r"data.crop must be a multiple of 16, got 100"),
        (["data.crop=56"], r"data.crop must be at least 64 for this network, got 56"),
        (["data.crop=96", "discriminator.n_scales=4"], r"data.crop must be at least 128"),
        (["loss.feature_matching=1"], r"loss.feature_matching needs discriminator.features: true"),
        (["loss.kl=0.1"], r"loss.kl needs model.style_kl: true"),
        (["model.domains=[cat, cat]"], r"model: the two domains need different names, got 'cat' twice"),
        (["model.domains=[cat, ../dog]"], r"letters, digits, - and _, got '../dog'"),
        (["model.domains=[cat, '']"], r"letters, digits, - and _, got ''"),
        (["model.domains=[cat]"], r"model.domains"),
        (["novalue"], r"--set 'novalue' is not KEY=VALUE"),
        (["=3"], r"--set '=3' is not KEY=VALUE"),
    ],
)
def test_values_that_do_not_fit(overrides, expected):
    assert re.search(expected, refused(*overrides))


def test_a_network_with_kl_may_weigh_it_and_a_small_crop_fits_fewer_scales():
    assert load_train_config("paper", None, ["loss.kl=0.1", "model.style_kl=true"]).loss.kl == 0.1
    config = load_train_config("paper", None, ["data.crop=32", "discriminator.n_scales=2"])
    assert (config.data.crop, config.discriminator.minimum_size) == (32, 32)


def test_files_that_are_no_settings(tmp_path):
    cases = {
        "unclosed.yaml": (b"loss: {cycle: 3", "unclosed.yaml is not valid YAML"),
        "list.yaml": (b"- steps\n- 3\n", "list.yaml holds a list, expected keys and values"),
        "text.yaml": (b"hello", "text.yaml holds a str, expected keys and values"),
        "bytes.yaml": (b"steps: \xff\xfe", "cannot read .*bytes.yaml"),
        "misspelt.yaml": (b"loss:\n  cylce: 3\n", "unknown key 'loss.cylce'"),
    }
    for name, (content, expected) in cases.items():
        file = tmp_path / name
        file.write_bytes(content)
        assert re.search(expected, refused(config_path=file)), name
    assert re.search("cannot read .*gone.yaml", refused(config_path=tmp_path / "gone.yaml"))
    assert "cannot read" in refused(config_path=tmp_path)
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert load_train_config("debug", tmp_path / "empty.yaml") == load_train_config("debug")


def test_settings_stay_as_they_were_made():
    config = ModelConfig()
    with pytest.raises(ValidationError):
        config.dim = 3
    with pytest.raises(ValidationError):
        DataConfig(crop_size=64)
