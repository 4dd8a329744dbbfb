"""The authors' checkpoint format: key names and layouts of `gen_*.pt`, `dis_*.pt` and their YAML.

Loading runs no code from the file: it uses `torch.load(weights_only=True)` and checks every key and shape.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dsmap.common.archives import check_archive
from dsmap.config import DiscriminatorConfig, LossWeights, ModelConfig, Settings, parse_settings, read_yaml
from dsmap.errors import InputError
from dsmap.model.discriminator import Discriminator
from dsmap.model.dsmap import DSMAP
from dsmap.model.two_domains import SLOTS

StateDict = Mapping[str, Tensor]

_SMALL = 1_000_000_000  # bytes: smaller networks are created without comparing sizes first

# The authors' loss weights under the names of the terms here.
_WEIGHT_NAMES = {
    "recon_x_w": "image",
    "recon_d_w": "domain_content",
    "recon_c_w": "shared_content",
    "recon_s_w": "style",
    "recon_x_cyc_w": "cycle",
    "gan_w": "adversarial",
    "vgg_w": "contextual",
    "recon_kl_w": "kl",
}


def read_official_config(path: Path) -> dict[str, Any]:
    """The authors' YAML as a mapping. Raises InputError for other YAML."""
    config = read_yaml(Path(path), "the authors' YAML")
    if not isinstance(config.get("gen"), dict):
        raise InputError(f"{path} has no `gen:` section", "Pass the YAML file the checkpoint was trained with.")
    return config


def official_model_config(config: Mapping[str, Any], domains: tuple[str, str] = ("a", "b")) -> ModelConfig:
    """The network that the authors' YAML describes; InputError for variants without a network here."""
    gen = config["gen"]
    expected = {"activ": ("relu",), "mid_downsample": (1,), "kl_mode": (False,)}
    _refuse_others(gen, expected, "gen")
    _refuse_others(config, {"input_dim_a": (3,), "input_dim_b": (3,)}, "")
    same = ("dim", "mlp_dim", "style_dim", "n_downsample", "n_res", "pad_type")
    names = {name: name for name in same} | {"status_d": "mapping"}
    return _renamed(ModelConfig, gen, names, "gen", domains=domains)


def official_discriminator_config(config: Mapping[str, Any]) -> DiscriminatorConfig:
    """The discriminator that the authors' YAML describes."""
    dis = config.get("dis")
    if not isinstance(dis, dict):
        raise InputError(
            "the configuration has no `dis:` section", "Pass the YAML file the checkpoint was trained with."
        )
    _refuse_others(dis, {"activ": ("lrelu",), "norm": ("none",)}, "dis")
    names = {
        "dim": "dim",
        "n_layer": "n_layers",
        "num_scales": "n_scales",
        "pad_type": "pad_type",
        "gan_type": "gan_type",
    }
    return _renamed(DiscriminatorConfig, dis, names, "dis")


def official_loss_weights(config: Mapping[str, Any]) -> LossWeights:
    """The loss weights of the authors' YAML."""
    return _renamed(LossWeights, config, _WEIGHT_NAMES, "")


def load_official(gen_path: Path, config_yaml: Path, domains: tuple[str, str] = ("a", "b")) -> DSMAP:
    """The authors' `gen_*.pt` with its YAML as a `DSMAP` in eval mode, on the CPU.

    Raises InputError when the file is missing, is not a plain state dict, or does not fit the YAML.
    """
    config = official_model_config(read_official_config(config_yaml), domains)
    states = read_state_dicts(gen_path)
    _check_size(config, states, gen_path)
    model = DSMAP(config)
    load_generator_weights(model, states, str(gen_path))
    return model.eval()


def _check_size(config: ModelConfig, states: Mapping[str, StateDict], path: Path) -> None:
    """Raises InputError if the YAML describes a network with many more weights than the file holds."""
    with torch.device("meta"):  # takes no memory
        needed = sum(p.numel() * p.element_size() for p in DSMAP(config).parameters())
    there = sum(value.untyped_storage().nbytes() for slot in SLOTS for value in states[slot].values())
    if needed > max(2 * there, _SMALL):  # may be in half precision; small networks are compared by weight
        raise InputError(
            f"{path} holds {there / 1e6:.0f} MB of weights, the network of the YAML has {needed / 1e6:.0f} MB",
            "Check that the YAML is the one this checkpoint was trained with (dim, n_res, style_dim, mlp_dim, ...).",
        )


def read_state_dicts(path: Path) -> dict[str, StateDict]:
    """{'a': state dict, 'b': state dict} from a `.pt` file, without running code from it."""
    advice = "Pass a gen_XXXXXXXX.pt or dis_XXXXXXXX.pt as the authors' trainer writes it."
    check_archive(path, "the checkpoint", advice)
    try:
        states = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types; each means that the file is not plain weights
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{path} is not a file of plain weights ({reason[:160]})", f"Nothing in it was run. {advice}"
        ) from error
    if not isinstance(states, dict) or not all(isinstance(states.get(slot), dict) for slot in SLOTS):
        keys = ", ".join(map(str, list(states)[:6])) if isinstance(states, dict) else type(states).__name__
        raise InputError(f"{path} holds {keys or 'nothing'}; expected the state dicts 'a' and 'b'", advice)
    for slot in SLOTS:
        for key, value in states[slot].items():
            if not isinstance(key, str) or not isinstance(value, Tensor):
                raise InputError(f"{path}: entry {key!r} of '{slot}' is a {type(value).__name__}, not a tensor", advice)
    return states


def load_generator_weights(model: DSMAP, states: Mapping[str, StateDict], where: str) -> None:
    """Copies the authors' generator state dicts into `model`; InputError for keys or shapes that do not fit."""

    def unused(key: str) -> bool:
        """Buffers that their AdaIN never reads, and the unused mapping in a MUNIT checkpoint."""
        if key.startswith("domain_mapping."):
            return not model.config.mapping
        return key.endswith((".running_mean", ".running_var", ".num_batches_tracked"))

    _copy(model, states, generator_key_map(model), unused, where)


def load_discriminator_weights(discriminators: nn.ModuleDict, states: Mapping[str, StateDict], where: str) -> None:
    """Copies the authors' discriminator state dicts into {'a': Discriminator, 'b': Discriminator}."""
    _copy(discriminators, states, discriminator_key_map(discriminators), lambda _key: False, where)


def generator_key_map(model: DSMAP) -> dict[tuple[str, str], str]:
    """(slot, authors' key) -> parameter name here, for every weight of both generators.

    Both of the authors' generators contain the one content encoder. Their mappings are crossed: the one stored with a
    maps to B, and vice versa.
    """
    names: dict[tuple[str, str], str] = {}
    for slot, other in (SLOTS, SLOTS[::-1]):
        pairs = [*_content_encoder_keys(model.config), *_style_encoder_keys(slot), *_decoder_keys(slot, model.config)]
        if model.config.mapping:
            pairs += _mapping_keys(other)
        for theirs, ours in pairs:
            for leaf in ("weight", "bias"):
                names[slot, f"{theirs}.{leaf}"] = f"{ours}.{leaf}"
    return names


def discriminator_key_map(discriminators: nn.ModuleDict) -> dict[tuple[str, str], str]:
    """(slot, authors' key) -> parameter name here, for every weight of both discriminators."""
    names: dict[tuple[str, str], str] = {}
    for slot in SLOTS:
        discriminator = discriminators[slot]
        assert isinstance(discriminator, Discriminator)
        for i, scale in enumerate(discriminator.scales):
            n_layers = len(scale.layers)  # type: ignore[arg-type]
            pairs = [(f"cnns.{i}.{j}.conv", f"{slot}.scales.{i}.layers.{j}") for j in range(n_layers)]
            for theirs, ours in [*pairs, (f"cnns.{i}.{n_layers}", f"{slot}.scales.{i}.head")]:
                for leaf in ("weight", "bias"):
                    names[slot, f"{theirs}.{leaf}"] = f"{ours}.{leaf}"
    return names


def _content_encoder_keys(config: ModelConfig) -> Iterator[tuple[str, str]]:
    for slot in SLOTS:
        ours = f"content_encoders.{slot}"
        yield f"enc_content.prelayer_{slot}.0.conv", f"{ours}.stem"
        for i in range(config.n_downsample):  # their index 1 is an activation
            yield f"enc_content.prelayer_{slot}.{i + 2}.conv", f"{ours}.downs.{i}"
        yield f"enc_content.model_{slot}.0.conv", f"{ours}.mid"
        for i in range(config.n_res):
            for j in (0, 1):
                yield f"enc_content.model_{slot}.1.model.{i}.model.{j}.conv", f"{ours}.blocks.{i}.conv{j + 1}"
    for j in (0, 1):
        yield f"enc_content.share_layer.0.model.{j}.conv", f"shared_encoder.block.conv{j + 1}"


def _style_encoder_keys(slot: str) -> Iterator[tuple[str, str]]:
    ours = f"style_encoders.{slot}"
    yield "enc_style.model.0.conv", f"{ours}.stem"
    for i in range(4):
        yield f"enc_style.model.{i + 1}.conv", f"{ours}.downs.{i}"
    yield "enc_style.model.6", f"{ours}.head"


def _mapping_keys(target_slot: str) -> Iterator[tuple[str, str]]:
    for i, name in enumerate(("up", "down"), 1):
        yield f"domain_mapping.layer{i}.0.conv", f"mappings.{target_slot}.{name}"
        yield f"domain_mapping.layer{i}.0.norm", f"mappings.{target_slot}.{name}_norm"


def _decoder_keys(slot: str, config: ModelConfig) -> Iterator[tuple[str, str]]:
    ours = f"decoders.{slot}"
    for i in range(config.n_res):
        for j in (0, 1):
            yield f"dec.model.0.model.{i}.model.{j}.conv", f"{ours}.blocks.{i}.conv{j + 1}"
    n_ups = config.n_downsample + 1
    for i in range(n_ups):
        yield f"dec.model.{2 * i + 2}.conv", f"{ours}.ups.{i}.conv"
        yield f"dec.model.{2 * i + 2}.norm", f"{ours}.ups.{i}.norm"
    yield f"dec.model.{2 * n_ups + 1}.conv", f"{ours}.tail"
    for i in range(3):
        yield f"mlp.model.{i}.fc", f"style_mlps.{slot}.layers.{i}"


def _copy(
    module: nn.Module, states: Mapping[str, StateDict], names: Mapping[tuple[str, str], str], unused: Any, where: str
) -> None:
    advice = "Check that the YAML is the one this checkpoint was trained with (dim, n_res, style_dim, mlp_dim, ...)."
    ours = dict(module.named_parameters())
    missing = [f"{slot}.{key}" for slot, key in names if key not in states[slot]]
    if missing:
        raise InputError(f"{where} lacks {len(missing)} weights, the first is {missing[0]}", advice)
    extra = [f"{slot}.{key}" for slot in SLOTS for key in states[slot] if (slot, key) not in names and not unused(key)]
    if extra:
        raise InputError(f"{where} has {len(extra)} weights this network does not, the first is {extra[0]}", advice)
    with torch.no_grad():
        for (slot, key), name in names.items():
            value = states[slot][key]
            if key.endswith(("norm.weight", "norm.bias")):
                value = value.flatten()  # theirs are (C, 1, 1)
            if value.shape != ours[name].shape:
                got, expected = tuple(value.shape), tuple(ours[name].shape)
                raise InputError(f"{where}: {slot}.{key} has shape {got}, expected {expected}", advice)
            ours[name].copy_(value)


def _refuse_others(section: Mapping[str, Any], expected: Mapping[str, tuple[Any, ...]], name: str) -> None:
    for key, values in expected.items():
        if key in section and section[key] not in values:
            full = f"{name}.{key}" if name else key
            raise InputError(
                f"{full} is {section[key]!r} in the authors' YAML; supported: {', '.join(map(str, values))}",
                "This variant has no network here: train it with dsmap-train, or export another checkpoint.",
            )


def _renamed(
    kind: type[Settings], section: Mapping[str, Any], names: Mapping[str, str], where: str, **more: Any
) -> Any:
    tree = {ours: section[theirs] for theirs, ours in names.items() if theirs in section}
    return parse_settings(kind, {**tree, **more}, f"`{where}:` of the authors' YAML" if where else "the authors' YAML")
