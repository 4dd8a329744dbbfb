"""Settings of the network and its training, validated on construction. Imports no torch.

`networks` describes generators and discriminators, `training` everything else that decides a run, `loading` reads them
from presets, YAML files and `--set key=value`.
"""

from dsmap.config.base import MAX_NAME, MAX_SIDE, MAX_STEPS, MAX_STYLE_AXES, MAX_WIDTH, Settings
from dsmap.config.loading import (
    known_keys,
    load_train_config,
    override_key,
    parse_settings,
    parse_yaml,
    preset_names,
    read_yaml,
    written_keys,
)
from dsmap.config.networks import NOT_SHAPING, DiscriminatorConfig, GanType, ModelConfig, PadType
from dsmap.config.training import DataConfig, LossWeights, OptimizerConfig, TrainConfig

__all__ = [
    "MAX_NAME",
    "MAX_SIDE",
    "MAX_STEPS",
    "MAX_STYLE_AXES",
    "MAX_WIDTH",
    "NOT_SHAPING",
    "DataConfig",
    "DiscriminatorConfig",
    "GanType",
    "LossWeights",
    "ModelConfig",
    "OptimizerConfig",
    "PadType",
    "Settings",
    "TrainConfig",
    "known_keys",
    "load_train_config",
    "override_key",
    "parse_settings",
    "parse_yaml",
    "preset_names",
    "read_yaml",
    "written_keys",
]
