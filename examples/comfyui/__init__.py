"""A ComfyUI node that translates images and frames of videos with a model of dsmap.

    cp -r examples/comfyui ComfyUI/custom_nodes/dsmap

Needs, in ComfyUI's own Python: pip install 'dsmap[cpu]'
"""

from functools import lru_cache
from typing import Any

import numpy as np
import torch

from dsmap.runtime import Translator
from dsmap.runtime.jobs.stages import FrameSteps
from dsmap.runtime.styles.strength import StrengthTranslator

CHUNK = 8  # images that are taken from the batch at a time: its other copies stay as small as that


@lru_cache(maxsize=2)
def loaded(model: str, domain: str, strength: float) -> StrengthTranslator:
    """A translator, which stays loaded until two others were used."""
    return StrengthTranslator(Translator.load(model, domain=domain), strength)


class DsmapTranslate:
    """Images to images: the batch translated to `domain`, of the same size."""

    CATEGORY = "image/dsmap"
    FUNCTION = "translate"
    RETURN_TYPES = ("IMAGE",)
    DESCRIPTION = "Translates images to another domain, such as from summer to winter."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802  # ComfyUI's name
        """What the node shows."""
        lines = {
            "default": 0,
            "min": 0,
            "max": 8192,
            "tooltip": "Translate at so many lines: faster. 0: as in dsmap-video.",
        }
        return {
            "required": {
                "image": ("IMAGE",),
                "model": ("STRING", {"default": "summer-winter", "tooltip": "A name, a folder, or hf:OWNER/NAME."}),
                "domain": ("STRING", {"default": "winter", "tooltip": "The domain to translate to."}),
                "style": (
                    "STRING",
                    {"default": "", "tooltip": "A style's name, an image, seed:7, or empty: the mean."},
                ),
                "height": ("INT", lines),
                "strength": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.05}),
            }
        }

    def translate(
        self, image: torch.Tensor, model: str, domain: str, style: str, height: int, strength: float
    ) -> tuple[torch.Tensor]:
        """`image`: float (B, H, W, 3 or 4), 0..1; alpha is dropped. Gives float32 (B, H, W, 3) on the CPU."""
        translator = loaded(model, domain, strength)
        translator.translator.set_style(style or None)
        steps = FrameSteps(translator, image.shape[2], image.shape[1], lines=height or None)
        result = torch.empty((*image.shape[:3], 3), dtype=torch.float32)
        for begin in range(0, len(image), CHUNK):
            chunk = image[begin : begin + CHUNK, :, :, :3].clamp(0, 1).mul(255).round().to("cpu", torch.uint8).numpy()
            for place, rgb in enumerate(chunk, start=begin):
                rgb = np.ascontiguousarray(rgb)
                result[place] = torch.from_numpy(steps.finish(rgb, steps.begin(rgb)())).to(torch.float32) / 255
        return (result,)


NODE_CLASS_MAPPINGS = {"DsmapTranslate": DsmapTranslate}
NODE_DISPLAY_NAME_MAPPINGS = {"DsmapTranslate": "Translate (dsmap)"}
