"""Splitting a video job at keyframes into segments, which are translated apart and joined without loss.

    plan = plan_segments(request, job, seconds=30)  # no model is needed
    if plan.is_split:
        folder = begin_segments(request, job)
        with LoadedModel(request, largest=plan.size) as model:  # each worker loads it once
            results = [translate_segment(request, job, plan, one.index, model, folder) for one in plan.segments]
        report = join_segments(request, job, plan, results)  # no model is needed

All arguments and results can be pickled. Workers are processes, of any machines that see the same files under the same
names. The result is that of the plain job (`run_video_job`), frame by frame and packet by packet: a segment becomes a
part of its journal (see `jobs.packet_journal`), and joining is that job, resumed when all its parts are done. Therefore
what is left of a split job is continued by the plain one with `resume` too.
"""
