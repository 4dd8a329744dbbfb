"""The base class of all settings, and limits on what files may ask for."""

import re

from pydantic import BaseModel, ConfigDict

MAX_STEPS = 10**9
MAX_NAME = 100
MAX_WIDTH, MAX_SIDE = 4096, 16_384
MAX_STYLE_AXES = 64
"""Channels, and pixels of an image side: files cannot ask for more, as memory and time grow with them."""

DOMAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
"""Valid domain names: they become parts of file names."""


class Settings(BaseModel):
    """Frozen, keyword-only settings that refuse unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
