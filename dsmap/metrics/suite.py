"""Metric suites: the networks and settings that an evaluation measures with. Without a network no torch is imported."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dsmap.errors import InputError

if TYPE_CHECKING:  # these import torch
    from dsmap.metrics.extractors import Extractor, LpipsNet, PairDistance, SqueezeNet

_LPIPS_NETS = ("alex", "vgg", "squeeze")


@dataclass(frozen=True, kw_only=True)
class MetricSuite:
    """The networks of an evaluation, and how many pairs it compares."""

    extractors: "tuple[Extractor, ...]"
    """Distances are measured on each; without one only edges and structure are measured."""
    pair_distance: "PairDistance | None" = None
    """For diversity; None: diversity is not measured."""
    pairs: int = 4
    """Pairs of results of each content for diversity."""
    seed: int = 0
    """Random seed of the pairs and the intervals."""

    @property
    def squeezenet(self) -> "SqueezeNet | None":
        """The network whose maps are compared and whose features the classifier is fitted on."""
        if not self.extractors:
            return None
        from dsmap.metrics.extractors import SqueezeNet

        return next((e for e in self.extractors if isinstance(e, SqueezeNet)), None)

    def facts(self) -> dict[str, str]:
        """What a reader must know to repeat the numbers, label to text."""
        facts = {"features": "; ".join(extractor.name for extractor in self.extractors)}
        if self.pair_distance is not None:
            facts["diversity"] = f"{self.pair_distance.name}, {self.pairs} pairs of results of each content"
        return facts | {"seed": str(self.seed)}


def load_metric_suite(
    features: Sequence[Path], lpips: str | None, *, pairs: int, seed: int, run_code: bool = False
) -> MetricSuite:
    """Loads the feature networks in the files `features`, and LPIPS on the network `lpips` (None: no LPIPS).

    `run_code` allows TorchScript programs other than NVIDIA's Inception. Raises InputError without a feature network,
    for a file that is not one, and for two of one kind.
    """
    if not features:
        raise InputError(
            "no feature network was passed",
            "Pass --features with an .npz of SqueezeNet v1.0 or the TorchScript file inception-2015-12-05.pt.",
        )
    if lpips is not None and lpips not in _LPIPS_NETS:
        raise InputError(f"{lpips!r} is not a valid LPIPS network", f"Choose one of {', '.join(_LPIPS_NETS)}.")
    if lpips is not None and not pairs:
        raise InputError("--lpips measures pairs of results, and --pairs is 0", "Leave out one of them.")
    from dsmap.metrics.extractors import SqueezeNet, load_extractor

    extractors = tuple(load_extractor(path, run_code=run_code) for path in features)
    if len({e.key for e in extractors}) < len(extractors):
        raise InputError("two feature networks of one kind were passed", "Pass one SqueezeNet, one Inception, or both.")
    squeezenet = next((e for e in extractors if isinstance(e, SqueezeNet)), None)
    return MetricSuite(
        extractors=extractors,
        pair_distance=_load_pair_distance(lpips, squeezenet) if pairs else None,
        pairs=pairs,
        seed=seed,
    )


def _load_pair_distance(lpips: str | None, squeezenet: "SqueezeNet | None") -> "PairDistance | None":
    from dsmap.metrics.extractors import SqueezeNetDistance, load_lpips

    if lpips is None:
        return None if squeezenet is None else SqueezeNetDistance(squeezenet)
    net: LpipsNet = "alex" if lpips == "alex" else "vgg" if lpips == "vgg" else "squeeze"
    return load_lpips(net)
