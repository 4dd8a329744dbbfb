"""The report of a GPU check as Markdown."""

from collections.abc import Iterable, Sequence
from typing import Any

from dsmap.tools.gpu_check.plan import GpuCheckRun, StepResult
from dsmap.tools.gpu_check.steps import BLOCKS, MIN_PSNR, WARM_UP_FRAMES, WARM_UP_SECONDS

Row = dict[str, Any]


def markdown(run: GpuCheckRun) -> str:
    """The whole report; of a run that is under way, what there is."""
    parts = [_head(run)]
    if run.no_gpu is None:
        parts += [_checks(run), _videos(run), _speeds(run), _stages(run), _bindings(run), _rest(run)]
    return "\n\n".join(part for part in parts if part) + "\n"


def verdict(run: GpuCheckRun) -> str:
    """One line."""
    if run.no_gpu is not None:
        return f"Nothing was run: {run.no_gpu}."
    words = [result.word for result in run.results]
    counts = ", ".join(f"{words.count(word)} {word}" for word in ("passed", "failed", "left out") if word in words)
    return f"{'Every check that ran passed' if run.passed else 'NOT PASSED'}: {counts or 'nothing yet'}."


def _head(run: GpuCheckRun) -> str:
    facts = run.facts
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return "\n".join(
        [
            "# GPU check",
            "",
            verdict(run),
            "",
            f"- GPU: {facts['gpu'] or 'none seen by nvidia-smi'}",
            f"- CPU: {facts['cpu']}; {facts['system']}; Python {facts['python']}",
            f"- dsmap {facts['dsmap']}; {versions}",
            f"- {facts['at']}: `{run.command}`",
            "",
            "Speeds are frames a second from host frame to host frame, up to 3 under way, 8 bits in and out: the "
            f"median of {BLOCKS} blocks after a warm-up of {WARM_UP_SECONDS} s and {WARM_UP_FRAMES} frames. A delay is "
            "one frame's by itself, median and 95th percentile. 1080 lines are 1088 to the network.",
        ]
    )


def _checks(run: GpuCheckRun) -> str:
    rows = []
    for result in run.results:
        if result.step.kind != "check" or result.word == "left out":
            continue
        found = result.found.get("rows", [])
        worst = min((row["psnr_db"] for row in found), default=None)
        what = result.found.get("description") or result.reason
        open_seconds = result.found.get("open_seconds", "")
        same = ("no", "yes")[all(row.get("same_again", True) for row in found)] if found else ""
        rows.append((result.step.title, result.word, "" if worst is None else worst, same, open_seconds, what))
    title = f"Each backend against the CPU in float32 (worst image; at least {MIN_PSNR:.0f} dB)"
    return _section(title, _table(("", "", "PSNR, dB", "the same again", "opened in, s", "what ran"), rows))


def _videos(run: GpuCheckRun) -> str:
    rows = [
        (
            f"{result.step.backend}, {result.step.model}",
            row["size"],
            "software" if row["hwaccel"] == "off" else row["hwaccel"],
            row["codec"],
            row.get("fps", ""),
            row.get("psnr_db", ""),
            row.get("colour_shift", ""),
            row.get("failed") or row.get("left_out", ""),
        )
        for result in run.results
        if result.step.kind == "video"
        for row in result.found.get("rows", [])
    ]
    head = ("", "size", "decoder", "codec", "frames/s", "PSNR, dB", "colour, levels", "")
    return _section("From file to file, compared with the first line", _table(head, rows))


def _speeds(run: GpuCheckRun) -> str:
    parts = []
    for model in dict.fromkeys(result.step.model for result in run.results if result.step.kind == "speed"):
        rows = [_speed_row(result.step.backend, row) for result, row in _rows(run) if result.step.model == model]
        head = ("", "size", "frames/s", "delay, ms", "memory, MB", "first frame, s", "graphs")
        parts.append(_section(f"Speed: {model}", _table(head, rows)))
    return "\n\n".join(part for part in parts if part)


def _speed_row(backend: str, row: Row) -> tuple[Any, ...]:
    if "failed" in row:
        return backend, row["size"], "failed", "", "", "", row["failed"]
    delay = row["delay_ms"]
    graphs = {True: "yes", False: "no"}.get(row.get("graphs"), "")  # type: ignore[arg-type]
    times = f"{delay['p50']} / {delay['p95']}"
    return backend, row["size"], row["fps"], times, row.get("memory_mb", ""), row["first_frame_seconds"], graphs


def _stages(run: GpuCheckRun) -> str:
    names = ("upload", "encoder", "mapping", "decoder", "download")
    rows = [
        (result.step.title.removeprefix("speed of "), row["size"], *(row["stages_ms"].get(name, "") for name in names))
        for result, row in _rows(run)
        if "stages_ms" in row
    ]
    return _section("Stages on the device, ms, one by one and without graphs", _table(("", "size", *names), rows))


def _bindings(run: GpuCheckRun) -> str:
    rows = []
    for result in run.results:
        for name, of in result.found.get("bindings", {}).items():
            if "left_out" in of:
                rows.append((name, of["left_out"], "", "", ""))
            else:
                passed = "passed" if of["passed"] else "failed"
                rows.append((of["version"], passed, of["upload_gb_s"], of["download_gb_s"], of["graphs"]))
    return _section("Bindings to CUDA", _table(("", "", "up, GB/s", "down, GB/s", "graphs"), rows))


def _rest(run: GpuCheckRun) -> str:
    lines = [
        f"- {result.step.title}: {result.word}: {result.reason}" for result in run.results if result.word != "passed"
    ]
    lines += [f"- {result.step.title}: {line}" for result in run.results for line in result.found.get("said", [])]
    return _section("Failures, steps left out, and notes", "\n".join(lines))


def _rows(run: GpuCheckRun) -> Iterable[tuple[StepResult, Row]]:
    """The rows of the speed steps, with the step of each."""
    for result in run.results:
        if result.step.kind == "speed":
            for row in result.found.get("rows", []):
                yield result, row


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "/") for cell in line) + " |" for line in lines)
