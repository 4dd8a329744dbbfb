"""Requests to polish and to distill: frozen, typed, checked before torch is loaded."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dsmap.common.output_files import check_run_folder
from dsmap.errors import InputError
from dsmap.training.datasets import Domain, check_named_domains, find_domain, find_domains

Pictures = tuple[Sequence[Path], Sequence[Path]]
"""For training, and for tests."""


@dataclass(frozen=True, kw_only=True)
class GeneratorRunRequest:
    """Options of every run that trains generators without discriminators."""

    out: Path
    """The run's folder, new or empty."""
    data: Path | None = None
    """Folder with trainA and trainB, and testA and testB if there are test images."""
    domain_folders: Sequence[tuple[str, Path]] = ()
    """In place of `data`: the name and the folder of each domain."""
    features: str | None = None
    """Feature network: "vgg16" or a SqueezeNet .npz file."""
    seed: int = 0
    device: str = "auto"

    def check_out(self) -> None:
        """Raises InputError unless `out` can be created, or is empty."""
        if self.out.is_dir() and any(self.out.iterdir()):
            raise InputError(f"{self.out} exists and is not empty", "Choose a new folder with -o.")
        check_run_folder(self.out)


@dataclass(frozen=True, kw_only=True)
class PolishRequest(GeneratorRunRequest):
    """A trained model to polish. Raises InputError for values out of range."""

    checkpoint: Path
    """A run, whose latest checkpoint is used, or a checkpoint."""
    default_styles: Mapping[str, Path] = field(default_factory=dict)
    """Folders of images, by domain: their mean style becomes the default."""
    target: str | None = None
    """Train only the decoder of this domain."""
    steps: int = 900
    batch_size: int = 2
    """Images of each domain in an iteration."""
    zoom: float = 1.0
    """Crop from images enlarged up to this factor."""
    lr: float = 1e-4
    matching: float | None = None
    """Weight of the feature matching; None: 5."""
    contrast: Mapping[str | None, float] = field(default_factory=dict)
    """By domain, in place of the model's own; None stands for every domain that is not named."""

    def __post_init__(self) -> None:
        _check_lr(self.lr, "1e-4")
        _check_weight("--matching", self.matching, self.features)

    @property
    def matching_weight(self) -> float:
        """0 without a feature network."""
        if self.features is None:
            return 0.0
        return 5.0 if self.matching is None else self.matching


@dataclass(frozen=True, kw_only=True)
class DistillRequest(GeneratorRunRequest):
    """A student network to train. Raises InputError for values out of range."""

    preset: str = "lite"
    """The student's architecture and image sizes."""
    overrides: Sequence[str] = ()
    """KEY=VALUE settings that change the preset."""
    steps: int = 4000
    """Iterations, alternating between the two target domains."""
    batch_size: int = 4
    """Images of each domain in an iteration."""
    lr: float = 1e-3
    perceptual: float | None = None
    """Weight of the perceptual distance; None: 1."""

    def __post_init__(self) -> None:
        _check_lr(self.lr, "1e-3")
        _check_weight("--perceptual", self.perceptual, self.features, below=1e6)

    @property
    def perceptual_weight(self) -> float:
        """0 without a feature network."""
        if self.features is None:
            return 0.0
        return 1.0 if self.perceptual is None else self.perceptual


@dataclass(frozen=True, kw_only=True)
class RefinerRequest(GeneratorRunRequest):
    """Refiners to train. Raises InputError for values out of range."""

    steps: int = 4000
    """Iterations for each direction."""
    batch_size: int = 4
    """Patches in an iteration."""
    lr: float = 2e-3

    def __post_init__(self) -> None:
        _check_lr(self.lr, "2e-3")

    def pictures(self, domains: tuple[str, str], targets: Sequence[str]) -> dict[str, Pictures]:
        """By target, the training and the test images of its source. Raises InputError, also where there are none."""
        one_will_do = self.data is None and len(self.domain_folders) < 2
        found: Sequence[Domain] = (
            [find_domain(*named) for named in self.domain_folders]
            if one_will_do
            else find_domains(self.data, self.domain_folders, names=domains)
        )
        for domain in found:
            check_named_domains("--domain", [domain.name], domains)
        sources = {target: domains[1 - domains.index(target)] for target in targets}
        by_name: dict[str, Pictures] = {domain.name: (domain.train, domain.test) for domain in found}
        chosen = {target: by_name[source] for target, source in sources.items() if source in by_name}
        if not chosen:
            raise InputError(
                f"the model translates images of {' and '.join(sources.values())}; none were passed",
                "Pass " + " or ".join(f"--domain {source}=FOLDER" for source in sources.values()) + ".",
            )
        return chosen


def _check_lr(lr: float, example: str) -> None:
    if not 0 < lr <= 1:
        raise InputError(f"--lr is {lr:g}", f"Pass a number above 0 and up to 1, such as {example}.")


def _check_weight(option: str, weight: float | None, features: str | None, below: float = math.inf) -> None:
    if weight is None:
        return
    if features is None:
        raise InputError(f"{option} needs --features", f"Pass --features FILE.npz, or leave {option} out.")
    if not 0 < weight < below:
        raise InputError(f"{option} is {weight:g}", "Pass a positive number, or leave out --features.")
