"""What the process of a job is told."""

from dataclasses import dataclass

from dsmap.runtime.jobs.request import VideoRequest
from dsmap.runtime.serve.request import ServeLimits


@dataclass(frozen=True, kw_only=True)
class JobOrder:
    """One video to translate. It can be pickled."""

    request: VideoRequest
    """With a single job, whose files lie in a folder of its own."""
    limits: ServeLimits
    convert_audio: bool = False
    """Re-encode the sound where the result's container does not hold it as it is."""
