"""The job of `dsmap-eval images`: its arguments, and an evaluator that shows its progress."""

import os
from collections.abc import Sequence
from pathlib import Path

from dsmap.common.cache_folder import user_cache_folder
from dsmap.common.notify import Notify
from dsmap.metrics.comparison import SystemFolder
from dsmap.metrics.evaluator import Evaluator
from dsmap.metrics.feature_cache import FeatureCache
from dsmap.metrics.suite import MetricSuite
from dsmap.tools.shared.progress import progress


def parse_system(text: str) -> SystemFolder:
    """FOLDER or NAME=FOLDER, where FOLDER may end with a pattern; a folder that exists is never taken apart."""
    name, separator, rest = text.partition("=")
    if not separator or not name or not rest or Path(text).is_dir():
        name, rest = "", text
    folder, pattern = Path(rest), None
    if not folder.is_dir() and any(char in folder.name for char in "*?["):
        folder, pattern = folder.parent, folder.name
    return SystemFolder(name or Path(os.path.abspath(folder)).name or "results", folder, pattern)


def evaluator_with_progress(
    reference: Sequence[Path],
    suite: MetricSuite,
    *,
    contents: Sequence[Path],
    source: Sequence[Path],
    say: Notify,
    side: int | None = None,
) -> Evaluator:
    """An evaluator that shows its progress, and keeps the features of whole folders for the next evaluation."""
    cache = FeatureCache(user_cache_folder() / "features")
    evaluator = Evaluator(
        reference, suite, contents=contents, source=source, say=say, side=side, progress=progress, cache=cache
    )
    if cache.problem:
        say(f"features cannot be kept for the next evaluation: {cache.problem}")
    return evaluator
