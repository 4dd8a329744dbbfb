"""A request to import a model that another trainer wrote: frozen, typed, checked before torch is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dsmap.errors import InputError
from dsmap.export.request import check_datasets

SMALLEST, LARGEST = 16, 8192
ADVICE = "Pass generators of a CycleGAN (latest_net_G_A.pth), or both of a MUNIT (gen_01000000.pt)."


@dataclass(frozen=True, kw_only=True)
class ImportRequest:
    """Checkpoints to import. Raises InputError for fields that cannot be."""

    checkpoints: Sequence[Path]
    """The generator from the first domain to the second; and, in second place, the one back."""
    domains: tuple[str, str]
    out: Path
    """The bundle's folder."""
    size: int = 256
    """Shorter side of the training images in pixels."""
    data: Path | None = None
    """Folder with trainA and trainB: images that precisions are calibrated and checked on."""
    fp16: bool = False
    int8: bool = False
    force: bool = False
    """Keep a precision that fails its check against float32; bundle.json records the failure."""
    name: str | None = None
    """The model's name; None: that of the folder `out`."""
    licence: str = "not stated"
    datasets: Sequence[str] = ()
    """What it was trained on: ids of the Hub, or short names."""
    card: Path | None = None
    """A model card (Markdown) instead of the default one."""
    overwrite: bool = False
    """Replace the bundle `out`; nothing but a bundle is ever replaced."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.checkpoints) <= 2:
            raise InputError(
                f"{len(self.checkpoints)} checkpoints were passed, expected one or two",
                "Pass the generator from the first domain to the second, and then the one back.",
            )
        if not SMALLEST <= self.size <= LARGEST:
            raise InputError(f"--size is {self.size}", f"Pass {SMALLEST} to {LARGEST} pixels.")
        if self.int8 and self.data is None:
            raise InputError(
                "--int8 needs images to calibrate on, and none were passed",
                "Pass --data FOLDER with trainA and trainB.",
            )
        check_datasets(self.datasets)
