"""Running requests on a Ray cluster.

    report = translate_videos("films/", "results", domain="winter", run=OnRay("auto", segment=30))

All is checked as on one machine, and on every node, before any work. Then workers, each with the model loaded once,
take units of work (a video or a segment of it, some images) until none is left. Workers read inputs from the shared
storage and write results into it; Ray carries names and numbers only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from dsmap.common.interrupts import stop_on_signals
from dsmap.errors import InputError
from dsmap.runtime.cluster.connection import connected
from dsmap.runtime.cluster.nodes import Share, check_nodes, worker_count
from dsmap.runtime.cluster.outcomes import DESCRIBED, Outcomes
from dsmap.runtime.cluster.planning import plan_units
from dsmap.runtime.cluster.pool import Pool
from dsmap.runtime.cluster.worker import WorkerOrder, place_everywhere
from dsmap.runtime.jobs.batch import CheckedJob, described, largest_frames, run_request
from dsmap.runtime.jobs.batch_report import BatchReport, JobOutcome, ModelLoaded, OnEvent
from dsmap.runtime.jobs.loaded_model import settled_refining
from dsmap.runtime.jobs.request import VideoRequest
from dsmap.runtime.jobs.resume import discard_parts
from dsmap.runtime.jobs.segments.in_store import remove_segments_there
from dsmap.runtime.jobs.stored import is_stored

SEGMENT_SECONDS = 30.0
_BEATS = 500  # reports of workers a second that one process hears at ease


@dataclass(frozen=True)
class OnRay:
    """Runs requests on a cluster: for the argument `run` of `translate_videos`. Plain values; nothing is connected."""

    address: str = "auto"
    """auto: the cluster of $RAY_ADDRESS, or the one this machine belongs to; local: one that is started here for the
    run; else HOST:PORT, or ray://HOST:PORT from outside of the cluster."""
    segment: float = SEGMENT_SECONDS
    """Seconds: videos that are longer are split at keyframes into segments of about this length."""
    cpus_per_worker: float = 1
    gpus_per_worker: float | None = None
    """Fractions share a GPU. None: one where the cluster has GPUs, else none."""

    def __post_init__(self) -> None:
        if not 1 <= self.segment <= 86400:
            raise InputError(f"--segment is {self.segment:g} s, expected 1 to 86400", "pass seconds, such as 30")
        if not 0 < self.cpus_per_worker <= 1024:
            raise InputError(
                f"--cpus-per-worker is {self.cpus_per_worker:g}, expected more than 0, up to 1024", "pass a number"
            )
        if self.gpus_per_worker is not None and not 0 <= self.gpus_per_worker <= 64:
            raise InputError(f"--gpus-per-worker is {self.gpus_per_worker:g}, expected 0 to 64", "pass a number")

    def __call__(self, request: VideoRequest, on_event: OnEvent | None = None) -> BatchReport:
        """As `run_request`: the same guarantees and errors, and InputError for what is wrong with the cluster."""
        with connected(self.address) as ray:
            return run_request(request, on_event, translate_all=partial(_translate_all, ray, self))


def _translate_all(
    ray: Any, cluster: OnRay, request: VideoRequest, todo: Sequence[CheckedJob], emit: OnEvent
) -> tuple[list[JobOutcome], dict[str, Any]]:
    """See `TranslateAll`."""
    share = Share.of(ray, cluster.cpus_per_worker, cluster.gpus_per_worker)
    everywhere = place_everywhere(request)
    check_nodes(ray, share, everywhere)
    todo = [_begun(one, request) for one in todo]
    workers = worker_count(ray, share)
    units = plan_units(todo, everywhere, workers=workers, seconds=cluster.segment)
    order = WorkerOrder(
        request=everywhere,
        largest=largest_frames(todo),
        threads=share.threads,
        refining=settled_refining(everywhere),
        beat_seconds=max(0.5, workers / _BEATS),
    )
    with (
        stop_on_signals() as stop,
        Outcomes(todo, emit, alone=len(request.jobs) == 1) as outcomes,
        Pool(ray, share, order) as pool,
    ):
        outcomes.plan(units)
        summary = pool.start(len(units), stop)
        if summary is None:  # stopped before any worker was there
            return [], {}
        shown = todo if len(todo) <= DESCRIBED else ()
        lines = [*described(shown, request, summary), pool.described()]
        if not shown:
            lines.insert(0, f"{summary.direction}, {len(todo)} inputs")
        emit(ModelLoaded(tuple(lines), frames=_frames(todo)))
        outcomes.take_bad_inputs()
        pool.work(units, outcomes, stop)
        return outcomes.ended(), summary.facts | {"ray": pool.facts()}


def _begun(one: CheckedJob, request: VideoRequest) -> CheckedJob:
    """Throws away what an earlier job for the same video has left, unless the request is to resume: once for all, as
    workers that are lost leave some too. With the error while another process is working on it.
    """
    job = one.job
    if one.error is None and job.kind == "video" and not request.options.resume:
        try:
            if is_stored(job.output):
                remove_segments_there(job.output)
            else:
                discard_parts(job.output)
        except InputError as error:
            if len(request.jobs) == 1:
                raise
            return one._replace(error=error)
    return one


def _frames(todo: Sequence[CheckedJob]) -> int | None:
    """Of all good inputs together, as far as they are known; None when that of one is not."""
    counts = [one.facts.frames if one.facts else None for one in todo if one.error is None]
    return None if None in counts else sum(count or 0 for count in counts)
