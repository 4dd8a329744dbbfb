"""Translates all videos and images in a folder, and goes on where it was when it is run again.

    python examples/translate_videos.py clips/ results/

Needs: pip install 'dsmap[cpu]'
"""

import argparse
import sys
from pathlib import Path

from dsmap.runtime import translate_videos
from dsmap.runtime.jobs.batch_report import BatchEvent, JobOutcome, JobProgress


def show(event: BatchEvent) -> None:
    """Prints every 25th frame, and the end of each job."""
    if isinstance(event, JobProgress) and event.done % 25 == 0:
        print(f"{event.job.shown}: {event.done} of {event.expected or '?'} frames")
    elif isinstance(event, JobOutcome):
        print(f"{event.job.shown}: {event.error.fact if event.error else event.job.output}")


def main() -> None:
    """Exits with 1 unless everything was translated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--height", type=int, help="translate at this height, which is faster")
    arguments = parser.parse_args()

    report = translate_videos(
        arguments.clips,
        arguments.results,
        domain="winter",
        height=arguments.height,
        resume=True,
        on_event=show,
    )
    print(f"{len(report.outcomes)} translated, {len(report.skipped)} were there already, {len(report.errors)} failed")
    sys.exit(0 if report.complete else 1)


if __name__ == "__main__":
    main()
