"""The GPU check's report as Markdown."""

from collections.abc import Iterable, Sequence
from typing import Any

from dsmap.tools.gpu_check.run import PAPER, RUNNERS, Outcome, Run
from dsmap.tools.gpu_check.steps import BLOCKS, LEAST_PSNR, WARM_UP_FRAMES, WARM_UP_SECONDS

Row = dict[str, Any]
TARGETS = {"256x256": 800.0, "1280x720": 100.0}
"""Frames a second of the paper-size network on an H200, from host frame to host frame."""
TIMES_TORCH = 2.0
_COMPILED = "torch.compile fp16, channels last"


def markdown(run: Run) -> str:
    """The whole report; of a run that is under way, what there is."""
    parts = [_head(run)]
    if run.no_gpu is None:
        parts += [_targets(run), _checks(run), _speeds(run), _stages(run), _pairs(run), _bindings(run), _rest(run)]
    return "\n\n".join(part for part in parts if part) + "\n"


def verdict(run: Run) -> str:
    """One line."""
    if run.no_gpu is not None:
        return f"Nothing was run: {run.no_gpu}."
    words = [outcome.word for outcome in run.outcomes]
    counts = ", ".join(f"{words.count(word)} {word}" for word in ("passed", "failed", "left out") if word in words)
    return f"{'Every check that ran passed' if run.passed else 'NOT PASSED'}: {counts or 'nothing yet'}."


def targets(run: Run) -> list[Row]:
    """What was to be reached, what was, and whether; only what was measured."""
    found = []
    for size, wanted in TARGETS.items():
        ours = max((row["fps"] for o, row in _rows(run, "speed", PAPER) if _plain(o, row, size)), default=None)
        if ours is None:
            continue
        found.append({"what": f"frames a second, {PAPER}, {size}", "wanted": wanted, "got": ours})
        theirs = [row["fps"] for o, row in _rows(run, "torch", PAPER) if _compiled(o, row, size)]
        if theirs:
            what = f"times {_COMPILED}, {PAPER}, {size}"
            found.append({"what": what, "wanted": TIMES_TORCH, "got": round(ours / theirs[0], 2)})
    return [{**row, "met": row["got"] >= row["wanted"]} for row in found]


def _head(run: Run) -> str:
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


def _targets(run: Run) -> str:
    rows = [(r["what"], r["wanted"], r["got"], "yes" if r["met"] else "no") for r in targets(run)]
    return _section("What was to be reached on an H200", _table(("", "wanted", "got", "met"), rows))


def _checks(run: Run) -> str:
    rows = []
    for outcome in run.outcomes:
        if outcome.step.kind != "check" or outcome.word == "left out":
            continue
        found = outcome.result.get("rows", [])
        worst = min((row["psnr_db"] for row in found), default=None)
        what = outcome.result.get("description") or outcome.reason
        open_seconds = outcome.result.get("open_seconds", "")
        same = ("no", "yes")[all(row.get("same_again", True) for row in found)] if found else ""
        rows.append((outcome.step.title, outcome.word, "" if worst is None else worst, same, open_seconds, what))
    title = f"Each runner beside the CPU in float32 (worst image; at least {LEAST_PSNR:.0f} dB)"
    return _section(title, _table(("", "", "PSNR, dB", "the same again", "opened in, s", "what ran"), rows))


def _speeds(run: Run) -> str:
    parts = []
    for model in dict.fromkeys(o.step.model for o in run.outcomes if o.step.kind in ("speed", "torch")):
        rows = []
        for kind in ("speed", "torch"):
            for outcome, row in _rows(run, kind, model):
                name = outcome.step.title.partition(f", {model}")
                title = (name[0].removeprefix("speed of ") + name[2]) if kind == "speed" else outcome.step.job["form"]
                if "failed" in row:
                    rows.append((title, row["size"], "failed", "", "", "", row["failed"]))
                    continue
                delay = row.get("delay_ms", {})
                times = f"{delay['p50']} / {delay['p95']}" if delay else ""
                graphs = {True: "yes", False: "no"}.get(row.get("graphs"), "")  # type: ignore[arg-type]
                first = row["first_frame_seconds"]
                rows.append((title, row["size"], row["fps"], times, row.get("memory_mb", ""), first, graphs))
        head = ("", "size", "frames/s", "delay, ms", "memory, MB", "first frame, s", "graphs")
        parts.append(_section(f"Speed: {model}", _table(head, rows)))
    return "\n\n".join(part for part in parts if part)


def _stages(run: Run) -> str:
    rows = []
    for runner in RUNNERS:
        for outcome, row in _rows(run, "speed", None):
            if outcome.step.runner == runner and "stages_ms" in row:
                times = row["stages_ms"]
                names = ("upload", "encoder", "mapping", "decoder", "download")
                cells = [times.get(name, "") for name in names]
                rows.append((outcome.step.title.removeprefix("speed of "), row["size"], *cells))
    head = ("", "size", "upload", "encoder", "mapping", "decoder", "download")
    return _section("Stages on the device, ms, one by one and without graphs", _table(head, rows))


def _pairs(run: Run) -> str:
    rows = [
        (outcome.step.title, row["size"], row["fps"][0], row["fps"][1], row["ratio"])
        for outcome, row in _rows(run, "pair", None)
    ]
    return _section("Two forms in turns", _table(("first and second", "size", "first", "second", "ratio"), rows))


def _bindings(run: Run) -> str:
    rows = []
    for outcome in run.outcomes:
        for name, of in outcome.result.get("bindings", {}).items():
            if "left_out" in of:
                rows.append((name, of["left_out"], "", "", ""))
            else:
                passed = "passed" if of["passed"] else "failed"
                rows.append((of["version"], passed, of["upload_gb_s"], of["download_gb_s"], of["graphs"]))
    return _section("Bindings to CUDA", _table(("", "", "up, GB/s", "down, GB/s", "graphs"), rows))


def _rest(run: Run) -> str:
    lines = [f"- {o.step.title}: {o.word}: {o.reason}" for o in run.outcomes if o.word != "passed"]
    lines += [f"- {o.step.title}: {line}" for o in run.outcomes for line in o.result.get("said", [])]
    return _section("What failed, was left out, or was told", "\n".join(lines))


def _rows(run: Run, kind: str, model: str | None) -> Iterable[tuple[Outcome, Row]]:
    for outcome in run.outcomes:
        if outcome.step.kind == kind and model in (None, outcome.step.model):
            for row in outcome.result.get("rows", []):
                yield outcome, row


def _plain(outcome: Outcome, row: Row, size: str) -> bool:
    """A speed as it is without special settings."""
    return row["size"] == size and "fps" in row and not {"batch", "settings"} & set(outcome.step.job)


def _compiled(outcome: Outcome, row: Row, size: str) -> bool:
    return row["size"] == size and "fps" in row and outcome.step.job["form"] == _COMPILED


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "/") for cell in line) + " |" for line in lines)
