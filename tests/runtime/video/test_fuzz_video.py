"""Fuzzing real jobs with damaged and strange inputs: two lines of error or a result, never a traceback, crash or hang.

More of them: python tests/runtime/video/test_fuzz_video.py FIRST COUNT
"""

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import fuzz_inputs

WORKERS = 2
SEEDS = 480
LIMIT = 120  # seconds for one input, on a machine that does other things too
MEMORY = 6 << 30

WORKER = """
import hashlib, json, resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]), int(sys.argv[1])))
import cv2
import av
from dsmap.errors import DsmapError
from dsmap.runtime.jobs.video import translate_video

def run(source):
    folder = source.parent
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    output = folder / "out.mp4"
    wrong, told = [], ""
    try:
        report = translate_video(source, output, lambda frame: 255 - frame)
        told = f"{report.frames} frames"
    except DsmapError as error:
        told = error.fact
        if not error.fact or not error.advice or "\\n" in error.fact + error.advice:
            wrong.append("not a line of fact and one of advice")
    except BaseException as error:
        wrong.append(f"{type(error).__name__}: {error}")
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    done = after.pop("out.mp4", None) if "out.mp4" not in before else None
    if after != before:
        wrong.append(f"files changed: {sorted(before)} to {sorted(after)}")
    if done is not None:
        with av.open(str(output)) as container:
            frames = sum(1 for _ in container.decode(video=0))
        if told != f"{frames} frames" or not frames:
            wrong.append(f"the result has {frames} frames, told: {told}")
    elif told.endswith(" frames") and told[0].isdigit():
        wrong.append("no result")
    return {"told": told, "wrong": wrong}

for line in sys.stdin:
    print(json.dumps(run(Path(line.strip()))), flush=True)
"""


class Worker:
    """A process that tries inputs in turn; a new one is started when it dies or hangs."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(MEMORY)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, args=(self.process,), daemon=True).start()

    def _listen(self, process: subprocess.Popen) -> None:
        for line in process.stdout:
            self.answers.put(line)
        self.answers.put("")

    def run(self, source: Path) -> dict:
        self.process.stdin.write(f"{source}\n")
        self.process.stdin.flush()
        try:
            line = self.answers.get(timeout=LIMIT)
        except queue.Empty:
            return self._again(f"no answer within {LIMIT} s")
        return json.loads(line) if line else self._again("the process died")

    def _again(self, why: str) -> dict:
        self.process.kill()
        _, err = self.process.communicate()
        why = f"{why} ({self.process.returncode}): {err[-500:]}"
        self._start()
        return {"told": "", "wrong": [why]}

    def close(self) -> str:
        self.process.stdin.close()
        self.process.wait(timeout=LIMIT)
        return self.process.stderr.read()


def try_all(inputs: Sequence[tuple[str, bytes]], folder: Path) -> tuple[dict[str, dict], str]:
    """The outcome of every input, by name, and everything on stderr."""
    waiting: queue.SimpleQueue = queue.SimpleQueue()
    for one in enumerate(inputs):
        waiting.put(one)
    results: dict[str, dict] = {}
    noise: list[str] = []

    def work() -> None:
        worker = Worker()
        while not waiting.empty():
            try:
                index, (name, data) = waiting.get_nowait()
            except queue.Empty:
                break
            place = folder / str(index)
            place.mkdir()
            (place / name).write_bytes(data)
            if index % 6 == 0:  # something of the user's has the result's name already
                (place / "out.mp4").write_bytes(b"precious")
            results[name] = worker.run(place / name)
        noise.append(worker.close())

    threads = [threading.Thread(target=work) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results, "".join(noise)


def test_no_input_breaks_anything(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = fuzz_inputs.make_whole(tmp_path / "whole")
    inputs = [*whole.items(), *fuzz_inputs.strange(whole, tmp_path / "whole")]
    inputs += [fuzz_inputs.damaged(whole, seed) for seed in range(SEEDS)]
    (tmp_path / "tried").mkdir()
    results, noise = try_all(inputs, tmp_path / "tried")
    assert len(results) == len(inputs) > 200
    assert {name: result["wrong"] for name, result in results.items() if result["wrong"]} == {}
    assert noise == ""
    done = [name for name, result in results.items() if result["told"].endswith(" frames")]
    assert len(done) > 40  # most damage leaves something to show
    assert len(results) - len(done) > 40


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        (root / "whole").mkdir()
        clean = fuzz_inputs.make_whole(root / "whole")
        first, count = int(sys.argv[1]), int(sys.argv[2])
        told, noise = try_all([fuzz_inputs.damaged(clean, seed) for seed in range(first, first + count)], root)
        sys.stdout.write(noise)
        for name, result in told.items():
            if result["wrong"]:
                sys.stdout.write(f"{name}: {result}\n")
        sys.stdout.write(f"{sum(r['told'].endswith(' frames') for r in told.values())} of {len(told)} gave a video\n")
