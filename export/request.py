"""Requests to export a model or to extend a bundle: frozen, typed, checked before torch is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dsmap.errors import InputError

if TYPE_CHECKING:
    from dsmap.export.named_styles import NamedStyle
    from dsmap.export.samples import SampleImage

DEFAULT_SIZES = "256x256:512x512:1920x1088"
ENGINE_KINDS = ("tensorrt", "rtx", "auto")
REWRITES = ("upsampling", "tail", "scaling")


@dataclass(frozen=True, kw_only=True)
class EngineRequest:
    """TensorRT engines to build into a bundle."""

    kind: str = "auto"
    """One of ENGINE_KINDS."""
    sizes: str = DEFAULT_SIZES
    """WxH, or MIN:TYPICAL:MAX sizes of frames."""
    gpu_arch: str | None = None
    """Compute capabilities separated by commas, or "current"; None: all from 8.0 on."""
    max_batch: int = 1
    """Frames in one call, at most."""
    level: int | None = None
    """TensorRT's optimisation level, 0 to 5; None: its default."""
    timing_cache: Path | None = None
    """File in which plain TensorRT keeps the timings of kernels between builds."""

    def __post_init__(self) -> None:
        if self.level not in (None, *range(6)):
            raise InputError(f"--opt-level is {self.level}", "Pass 0 (quick to build) to 5 (tries most).")
        if self.max_batch < 1:
            raise InputError(f"--max-batch is {self.max_batch}", "Pass 1 or more frames.")
        if self.kind not in ENGINE_KINDS:
            raise InputError(f"no engine called {self.kind!r}", "Pass --engine tensorrt, rtx, auto or none.")


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """A checkpoint to export, and what the bundle shall hold. Raises InputError for fields that exclude each other."""

    checkpoint: Path
    """A run of dsmap-train, one of its checkpoints, a weights file of one, or a `gen_*.pt` by the authors' trainer."""
    out: Path
    """The bundle's folder."""
    official_config: Path | None = None
    """The YAML file of a `gen_*.pt`."""
    domain_names: tuple[str, str] | None = None
    """Of a `gen_*.pt`, which holds none."""
    weights: Literal["ema", "generators"] = "ema"
    """The moving average, or the generators themselves."""
    best: bool = False
    """Export the checkpoint of a run with the best score instead of the latest."""
    data: Path | None = None
    """Folder with trainA and trainB, to replace the images that the run was trained on."""
    domain_folders: Sequence[tuple[str, Path]] = ()
    """In place of `data`: the name and the folder of each domain."""
    default_styles: Mapping[str, Path] = field(default_factory=dict)
    """Folders of images, by domain: their mean style is the domain's default."""
    named_styles: "Sequence[NamedStyle]" = ()
    """Images whose styles get a name."""
    fp16: bool = False
    int8: bool = False
    force: bool = False
    """Keep a precision that fails its check against float32; bundle.json records the failure."""
    without: Sequence[str] = ()
    """Names of REWRITES to leave out."""
    sharpen: float | None = None
    contrast: Mapping[str | None, float] = field(default_factory=dict)
    """By domain; None stands for every domain that is not named."""
    margin: int | None = None
    """`sharpen`, `contrast` and `margin` replace the values that the network was trained with."""
    engines: EngineRequest | None = None
    name: str | None = None
    """The model's name; None: that of the folder `out`."""
    licence: str = "not stated"
    card: Path | None = None
    """A model card (Markdown, with a YAML head or without) instead of the default one."""
    datasets: Sequence[str] = ()
    """What it was trained on: ids of the Hub, or short names."""
    samples: "Sequence[SampleImage]" = ()
    """Pictures to show on the card beside their translations."""
    overwrite: bool = False
    """Replace the bundle `out`; nothing but a bundle is ever replaced."""

    def __post_init__(self) -> None:
        for name in self.without:
            if name not in REWRITES:
                raise InputError(f"no rewrite named {name!r}", f"Known rewrites: {', '.join(REWRITES)}.")
        check_datasets(self.datasets)
        if self.official_config is None:
            self._check_own()
        else:
            self._check_official()

    def _check_own(self) -> None:
        if self.domain_names is not None:
            raise InputError(
                "--domains names the domains of an --official checkpoint; this one has names", "Leave it out."
            )
        if self.checkpoint.suffix == ".pt":
            raise InputError(
                f"{self.checkpoint} is a .pt file", "Pass --official CONFIG.yaml with an authors' checkpoint."
            )

    def _check_official(self) -> None:
        given = {"--sharpen": self.sharpen is not None, "--contrast": bool(self.contrast),
                 "--margin": self.margin is not None, "--best": self.best}  # fmt: skip
        for flag, used in given.items():
            if used:
                raise InputError(f"{flag} does not go with --official", "Leave it out.")

    def inputs(self) -> list[tuple[Path, str]]:
        """Every file and folder that is read, each with a description; the checkpoint's run among them."""
        found: list[tuple[Path | None, str]] = [
            (self.checkpoint, "the checkpoint"),
            (self.official_config, "the YAML"),
            (self.card, "the model card"),
            (self.data, "the images"),
        ]
        found += [(path, f"the images of {name}") for name, path in self.domain_folders]
        found += [(path, f"the images of --default-style {name}") for name, path in self.default_styles.items()]
        if self.checkpoint.absolute().parent.name == "checkpoints":
            found.append((self.checkpoint.absolute().parent.parent, "the run"))
        found += [(style.image, "the image of --named-style") for style in self.named_styles]
        found += [(sample.image, "the image of --sample") for sample in self.samples]
        return [(path, name) for path, name in found if path is not None]


@dataclass(frozen=True, kw_only=True)
class UpdateRequest:
    """What to add to a bundle. Raises InputError for a request to add nothing."""

    bundle: Path
    named_styles: "Sequence[NamedStyle]" = ()
    """Images whose styles get a name."""
    default_styles: Mapping[str, Path] = field(default_factory=dict)
    """Folders of images by domain: what the default style and the random ones of the domain are made from."""
    engines: EngineRequest | None = None
    licence: str | None = None
    """Of the weights."""
    datasets: Sequence[str] = ()
    """What it was trained on: ids of the Hub, or short names."""
    card: Path | None = None
    """A model card (Markdown, with a YAML head or without)."""
    refiner: Path | None = None
    """A folder of `dsmap-distill --refiner`."""
    overwrite: bool = False
    """Replace named styles of the same name, the default style and refiners."""

    def __post_init__(self) -> None:
        check_datasets(self.datasets)
        if not (self.engines or self.named_styles or self.default_styles or self.refiner or self.changes_card):
            raise InputError(
                f"{self.bundle} is a bundle already",
                "Add --engine rtx (or tensorrt) to build engines for it, or --named-style to add a style.",
            )
        if self.default_styles and not self.overwrite:
            raise InputError(f"{self.bundle} has a default style already", "Pass --overwrite to replace it.")

    @property
    def changes_card(self) -> bool:
        """Whether the licence, the data or the card are given."""
        return bool(self.licence or self.datasets or self.card)

    def inputs(self) -> list[tuple[Path, str]]:
        """Every file and folder that is read, each with a description."""
        found = [(path, f"the images of --default-style {name}") for name, path in self.default_styles.items()]
        found += [] if self.card is None else [(self.card, "the model card")]
        found += [] if self.refiner is None else [(self.refiner, "the refiner's folder")]
        return found + [(style.image, "the image of --named-style") for style in self.named_styles]


def check_datasets(names: Sequence[str]) -> None:
    """Raises InputError for a name that a card's head cannot hold."""
    from dsmap.runtime.bundle.card import check_dataset  # which loads pydantic

    for name in names:
        check_dataset(name)
