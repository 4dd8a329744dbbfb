"""Splitting a video job at keyframes into segments, which are translated apart and joined without loss.

    plan = plan_segments(request, job, seconds=30)  # no model is needed
    if plan.is_split:
        folder = begin_segments(request, job)
        with LoadedModel(request, largest=plan.size) as model:  # each worker loads it once
            results = [translate_segment(request, job, plan, one.index, model, folder) for one in plan.segments]
        report = join_segments(request, job, plan, results)  # no model is needed

All arguments and results can be pickled. Workers are processes, of any machines that see the same files under the same
names. The result is that of the plain job (`run_video_job`), frame by frame and packet by packet: a segment becomes a
part of its journal (see `packet_journal`), and joining is that job, resumed when all its parts are done. Therefore what
is left of a split job is continued by the plain one with `resume` too.
"""

from dsmap.runtime.jobs.resume import segments_folder
from dsmap.runtime.jobs.segments_join import join_segments
from dsmap.runtime.jobs.segments_plan import SegmentPlan, VideoSegment, plan_segments
from dsmap.runtime.jobs.segments_resume import begin_segments, finished_segments, hold_segments
from dsmap.runtime.jobs.segments_store import SegmentResult
from dsmap.runtime.jobs.segments_work import translate_segment

__all__ = [
    "SegmentPlan",
    "SegmentResult",
    "VideoSegment",
    "begin_segments",
    "finished_segments",
    "hold_segments",
    "join_segments",
    "plan_segments",
    "segments_folder",
    "translate_segment",
]
