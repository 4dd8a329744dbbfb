"""Translates a single image so that Ctrl-C stops the network, as it does in a video."""

from typing import Never

from dsmap.common.interrupts import StopRequest
from dsmap.runtime.jobs.pipeline import Pipeline
from dsmap.runtime.jobs.report import Pixels, StageClock
from dsmap.runtime.jobs.stages import FrameSteps, Translated
from dsmap.runtime.video.frame import Frame


def translate_one(steps: FrameSteps, rgb: Pixels, stop: StopRequest, clock: StageClock) -> Pixels | None:
    """The finished image for `rgb`, uint8 (H, W, 3); None when `stop` was set and it was not done soon after.

    The network runs in a thread: the main one, in which Python handles signals, would be deaf while it computes.
    """
    pipeline: Pipeline[Never, Translated] = Pipeline(
        [Frame(rgb, 0, 1)],
        lambda frame, _index: steps.begin(frame.rgb),
        lambda frame, translated: steps.finish(frame.rgb, translated),
        clock=clock,
        cancel=steps.cancel,
    )
    with pipeline:
        done = [item.rgb for item in pipeline.results(stop)]
    return done[0] if done else None
