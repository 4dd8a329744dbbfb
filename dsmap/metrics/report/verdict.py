"""What a report's numbers say, in one line of words.

A system counts as nearer to the target than another only where the difference of their distances is larger than its own
95 % interval, computed from theirs as if they were independent. They share a reference, so that is on the safe side.
"""

import math
from collections.abc import Sequence

from dsmap.metrics.report.table import find_value
from dsmap.metrics.types import Metric, MetricValue, System

MIN_RESULTS, MIN_REFERENCES = 50, 100  # distances of fewer images say little
_TOO_FEW = "Too few images to say"
_LITTLE = 0.25  # of the distance
_LOST = 0.3  # edge structure; about 0 for another image
_STEADY, _SLIGHT = 0.05, 0.5  # flicker, in grey levels


def of_model(
    systems: Sequence[System], *, untranslated: System, real: System | None, source: str, target: str, references: int
) -> str:
    """Whether a model's translations are nearer to `target` than its contents are; "" without distances.

    `systems`: the same translations in several kinds of styles, the default one first. `real`: real images of the
    target, which show what a perfect translation could reach.
    """
    metric = _distance([*systems, untranslated])
    if metric is None:
        return ""
    found, before = [_found(system, metric) for system in systems], _found(untranslated, metric)
    if too_few := _too_few([*found, before], references):
        return too_few
    first, change = found[0], _compare(found[0], before)
    if change > 0:
        return f"Further from {target} than the untranslated images of {source} are."
    if change < 0:
        limit = None if real is None else find_value(real, metric)
        closed = _closed(systems, found, before, limit)
        return f"Nearer to {target}: {closed}{_content(systems[0])}."
    if first.value >= before.value:
        return f"No nearer to {target} than the untranslated images of {source} are."
    return (
        f"Not decided: the translations seem nearer to {target} than the untranslated images of {source} are, but the"
        " intervals are too wide. Measure more images."
    )


def decides_nothing(verdict: str) -> bool:
    """Whether there were too few images for a verdict: then no system counts as the best."""
    return verdict.startswith(_TOO_FEW)


def of_folders(systems: Sequence[System], *, untranslated: System | None, references: int) -> str:
    """Which system is nearest to the reference, and whether it is nearer than the contents; "" without distances."""
    metric = _distance([*systems, *([] if untranslated is None else [untranslated])])
    if metric is None:
        return ""
    found = sorted(((_found(system, metric), system) for system in systems), key=lambda pair: pair[0].value)
    if too_few := _too_few([value for value, _ in found], references):
        return too_few
    value, best = found[0]
    said = []
    if level := [other.name for theirs, other in found[1:] if _compare(value, theirs) == 0]:
        names = f"{best.name} or {_listed(level, 'or')}"
        said.append(f"These images do not decide whether {names} is nearest to the reference")
    elif len(found) > 1:
        said.append(f"{best.name} is nearest to the reference")
    if untranslated is not None:
        said.append(f"{best.name} is {_against(value, untranslated, metric)}")
    return f"{'; '.join(said)}{_content(best)}." if said else ""


def of_video(flickers: Sequence[tuple[str, float]]) -> str:
    """How much (name, flicker in grey levels) of each translation adds to the input's own change; "" for none."""
    if not flickers:
        return ""
    if len(flickers) == 1:
        return f"{_steadiness(flickers[0][1])}."
    name, least = min(flickers, key=lambda pair: pair[1])
    return f"{name} flickers least: {_steadiness(least).lower()}."


def _steadiness(flicker: float) -> str:
    if flicker <= _STEADY:
        return "No more flicker than the input"
    amount = "Slightly more" if flicker <= _SLIGHT else "More"
    return f"{amount} flicker than the input (+{flicker:.2f} grey levels)"


def _distance(systems: Sequence[System]) -> Metric | None:
    """The distance that all systems have: the kernel distance, or the Frechet distance of equally many images."""
    shared = [
        [value for system in systems if (value := find_value(system, measured.metric))]
        for measured in systems[0].measured
        if measured.metric.is_distance
    ]
    shared = [values for values in shared if len(values) == len(systems)]
    fair = [values for values in shared if not values[0].metric.falls_with_count or len({v.count for v in values}) == 1]
    fair.sort(key=lambda values: values[0].metric.falls_with_count)
    return fair[0][0].metric if fair else None


def _found(system: System, metric: Metric) -> MetricValue:
    value = find_value(system, metric)
    assert value is not None
    return value


def _too_few(values: Sequence[MetricValue], references: int) -> str:
    count = min(value.count for value in values)
    if count >= MIN_RESULTS and references >= MIN_REFERENCES and all(value.interval for value in values):
        return ""
    return (
        f"{_TOO_FEW}: {count} and {references} of the reference, where {MIN_RESULTS} and {MIN_REFERENCES} "
        "are the least."
    )


def _half(value: MetricValue) -> float:
    """Half of the interval, of which a limit may have cut one end off."""
    low, high = value.interval or (-math.inf, math.inf)
    return max(high - value.value, value.value - low)


def _compare(one: MetricValue, other: MetricValue) -> int:
    """-1 if `one` is smaller beyond doubt, 1 if it is larger, 0 if the intervals do not decide."""
    difference = one.value - other.value
    if not abs(difference) > math.hypot(_half(one), _half(other)):
        return 0
    return -1 if difference < 0 else 1


def _closed(
    systems: Sequence[System], found: Sequence[MetricValue], before: MetricValue, real: MetricValue | None
) -> str:
    """How much of the distance the systems close: shares where real images say how far it is, else the distances."""
    if real is None or _compare(real, before) >= 0:
        there = [f"{value.value:.0f} in the {system.name}" for system, value in zip(systems, found, strict=True)]
        there[0] = f"{found[0].value:.0f}" if len(there) == 1 else there[0]
        return f"the distance falls from {before.value:.0f} to {_listed(there, 'and')}"
    shares = [(before.value - value.value) / (before.value - real.value) for value in found]
    texts = [f"{min(1.0, share):.0%}".replace("%", " %") for share in shares]
    only = "only " if shares[0] < _LITTLE else ""
    said = f"{only}{texts[0]} of the distance is closed"
    for system, value, text in zip(systems[1:], found[1:], texts[1:], strict=True):
        if _compare(value, before) < 0:
            said += f", {text} in {system.name}"
    return said


def _against(value: MetricValue, untranslated: System, metric: Metric) -> str:
    change = _compare(value, before := _found(untranslated, metric))
    if change < 0:
        return f"nearer to it than the untranslated contents are ({value.value:.0f} against {before.value:.0f})"
    if change > 0:
        return "further from the reference than the untranslated contents are"
    if value.value >= before.value:
        return "no nearer to the reference than the untranslated contents are"
    return "not shown to be nearer to the reference than the untranslated contents: the intervals are too wide"


def _content(system: System) -> str:
    """A warning where hardly an edge of the contents is left, however near the results are."""
    for measured in system.measured:
        if measured.metric.key == "edge_structure" and measured.interval and measured.interval.high < _LOST:
            return f", but little of the content is kept (edge structure {measured.value:.2f})"
    return ""


def _listed(names: Sequence[str], word: str) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"
