"""Video jobs: they run one after the other, each in a process of its own, and can be cancelled.

A process of its own takes the server with it neither when a damaged video crashes a decoder nor when it fills the
memory, and it can be ended at any moment.
"""

import asyncio
import contextlib
import json
import os
import pickle
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dsmap.common.text import printable
from dsmap.runtime.serve.errors import RequestError
from dsmap.runtime.serve.job_order import JobOrder
from dsmap.runtime.serve.request import ServeLimits
from dsmap.runtime.serve.work_folder import WorkFolder

State = Literal["queued", "running", "done", "failed", "cancelled"]
ENDED = frozenset({"done", "failed", "cancelled"})

_STOP_SECONDS = 3.0  # that a job may take to end when it is cancelled
_CHECK_SECONDS = 1.0  # between two looks at time and disk
_LINE_BYTES = 1 << 20  # of what a job's process says


@dataclass(kw_only=True)
class VideoJob:
    """One video on its way."""

    id: str
    folder: Path
    """With the upload, later the result; gone when the job is."""
    order: JobOrder
    state: State = "queued"
    frames: int = 0
    """Done so far."""
    frames_expected: int | None = None
    notes: list[str] = field(default_factory=list)
    report: dict[str, Any] | None = None
    error: dict[str, str] | None = None
    created: float = field(default_factory=time.time)
    ended: float | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Replaced at every change; see `wait_for_change`."""
    process: int | None = None
    """The number of its process, once that has begun."""
    runner: asyncio.Task[None] | None = None

    @property
    def result(self) -> Path:
        """The translated video, once it is done."""
        return self.order.request.jobs[0].output

    def as_dict(self) -> dict[str, Any]:
        """For clients: no path of this machine."""
        return {
            "id": self.id,
            "state": self.state,
            "frames": self.frames,
            "frames_expected": self.frames_expected,
            "progress": self._progress(),
            "notes": self.notes,
            "report": self.report,
            "error": self.error,
            "result": f"/v1/jobs/{self.id}/result" if self.state == "done" else None,
            "created": round(self.created, 3),
            "ended": None if self.ended is None else round(self.ended, 3),
        }

    def change(self) -> None:
        """Wakes who waits for a change."""
        self.changed.set()
        self.changed = asyncio.Event()

    def fail(self, fact: str, advice: str) -> None:
        """Notes why it has no result."""
        self.error = {"fact": printable(fact), "advice": printable(advice)}

    def _progress(self) -> float | None:
        if self.state == "done":
            return 1.0
        return min(1.0, self.frames / self.frames_expected) if self.frames_expected else None


class JobQueue:
    """Runs jobs in the order in which they came. All methods are called from one event loop."""

    def __init__(self, limits: ServeLimits, work: WorkFolder, on_end: Callable[[VideoJob], None]) -> None:
        """`on_end` is called when a job has ended."""
        self._limits, self._work, self._on_end = limits, work, on_end
        self._jobs: dict[str, VideoJob] = {}
        self._turn = asyncio.Lock()  # fair: in order
        self._coming = 0

    def get(self, job_id: str) -> VideoJob:
        """Raises RequestError (404)."""
        if job_id not in self._jobs:
            raise RequestError(404, "there is no such job", "It may have been deleted: results are kept for a while.")
        return self._jobs[job_id]

    def count(self, *states: State) -> int:
        """How many jobs there are in these states."""
        return sum(job.state in states for job in self._jobs.values())

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """A place for a job whose upload begins, until it is added. Raises RequestError (503) when there is none."""
        if self.count("queued", "running") + self._coming >= self._limits.jobs:
            raise RequestError(
                503,
                f"the server is busy: {self._limits.jobs} jobs are waiting",
                "Try again later.",
                {"Retry-After": "30"},
            )
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1

    def add(self, folder: Path, order: JobOrder) -> VideoJob:
        """Queues a job, whose files lie in `folder`."""
        job = VideoJob(id=secrets.token_urlsafe(16), folder=folder, order=order)
        self._jobs[job.id] = job
        job.runner = asyncio.create_task(self._run(job))
        return job

    async def delete(self, job: VideoJob) -> None:
        """Cancels the job if it has not ended, and removes its files."""
        self._jobs.pop(job.id, None)
        await self._cancel(job)
        await asyncio.to_thread(shutil.rmtree, job.folder, ignore_errors=True)

    async def close(self) -> None:
        """Cancels all jobs."""
        await asyncio.gather(*(self._cancel(job) for job in self._jobs.values()))

    async def delete_old(self) -> None:
        """Deletes the jobs that ended too long ago."""
        now = time.time()
        for job in list(self._jobs.values()):
            if job.ended is not None and now - job.ended > self._limits.keep_seconds:
                await self.delete(job)

    async def _cancel(self, job: VideoJob) -> None:
        if job.runner is not None:
            job.runner.cancel()
            await asyncio.wait([job.runner])
        if job.state not in ENDED:  # its task had not begun
            job.state, job.ended = "cancelled", time.time()
            job.change()

    async def _run(self, job: VideoJob) -> None:
        """Waits for the job's turn and runs it. It has ended for others when its files are in order."""
        state: State = "failed"
        try:
            async with self._turn:
                job.state = "running"
                job.change()
                async with asyncio.timeout(self._limits.job_seconds):
                    await self._run_process(job)
            state = _state_at_end(job)
        except asyncio.CancelledError:
            state = "cancelled"
        except TimeoutError:
            job.fail(f"it took longer than {self._limits.job_seconds:g} seconds", "Send a shorter video.")
        except RequestError as error:  # no room
            job.fail(error.fact, error.advice)
        finally:
            if state == "failed" and job.error is None:
                job.fail("the job ended unexpectedly", "The video may be damaged.")
            await asyncio.to_thread(_remove_all_but, job.folder, job.result if state == "done" else None)
            job.state, job.ended = state, time.time()
            job.change()
            self._on_end(job)

    async def _run_process(self, job: VideoJob) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DSMAP_TOKEN")}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "dsmap.runtime.serve.job_process"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
            cwd=job.folder,
            limit=_LINE_BYTES,
            start_new_session=True,  # Ctrl-C is for the server, which ends its jobs itself
        )
        job.process = process.pid
        assert process.stdin is not None
        assert process.stdout is not None
        watch = asyncio.create_task(self._watch_disk(process))
        try:
            process.stdin.write(pickle.dumps(job.order))
            # It stays open: its end tells the process that the server is gone.
            while line := await process.stdout.readline():
                self._hear(job, json.loads(line))
            await process.wait()
            if watch.done():
                watch.result()
        finally:
            watch.cancel()
            await _end(process)

    async def _watch_disk(self, process: asyncio.subprocess.Process) -> None:
        """Ends the process when the disk is full; then raises RequestError."""
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            try:
                await asyncio.to_thread(self._work.check_written)
            except RequestError:
                await _end(process)
                raise

    def _hear(self, job: VideoJob, said: dict[str, Any]) -> None:
        """One event of the process."""
        match said:
            case {"progress": [done, expected]}:
                job.frames, job.frames_expected = done, expected
            case {"note": line}:
                job.notes.append(printable(line))
            case {"report": report}:
                job.report, job.frames = report, report["frames"]
            case {"error": {"fact": fact, "advice": advice}}:
                job.fail(fact, advice)
        job.change()


def _state_at_end(job: VideoJob) -> State:
    """What became of a job whose process has ended."""
    whole = job.report is not None and not job.report.get("interrupted")
    return "done" if whole and job.error is None and job.result.is_file() else "failed"


async def _end(process: asyncio.subprocess.Process) -> None:
    """Asks it to end, and kills it when it does not."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _remove_all_but(folder: Path, kept: Path | None) -> None:
    """Uploads are deleted as soon as they are not needed."""
    for path in folder.iterdir() if folder.exists() else ():
        if path != kept:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    if kept is None:
        shutil.rmtree(folder, ignore_errors=True)
