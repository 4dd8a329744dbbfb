"""`dsmap-export BUNDLE --triton REPOSITORY`: adds a bundle to the models of a Triton Inference Server."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsmap.common.output_files import check_outputs
from dsmap.errors import InputError
from dsmap.tools.shared.terminal import say


def add_to_triton(
    bundle: Path,
    repository: Path,
    name: str | None,
    max_batch: int | None,
    overwrite: bool,
    report: Path | None,
    others: Mapping[str, object],
    parts: str | None = None,
    precisions: Mapping[str, bool] | None = None,
) -> None:
    """Writes the models and says what was written. Raises InputError for an option of `others` that was given.

    `parts`: the kind of the graphs to write in place of the usual models. `precisions`: those that were asked for.
    """
    asked = [precision for precision, wanted in (precisions or {}).items() if wanted]
    if parts is None:
        others = {f"--{precision}": True for precision in asked} | dict(others)
    for flag, value in others.items():
        if value:
            raise InputError(f"{flag} does not go with --triton", "Make the bundle first; then add it with --triton.")
    closed = [(bundle, "the bundle's folder"), (repository, "the model repository")]
    check_outputs({"--report": report}, [], closed=closed, overwrite=overwrite)
    from dsmap.export.triton import TritonRequest, write_triton_models
    from dsmap.export.triton_parts import TritonPartsRequest, write_triton_parts
    from dsmap.runtime.bundle.bundled import find_model
    from dsmap.runtime.triton.interface import DEFAULT_MAX_BATCH

    common: dict[str, Any] = {"bundle": find_model(bundle), "repository": repository, "name": name}
    common |= {"overwrite": overwrite, "max_batch": DEFAULT_MAX_BATCH if max_batch is None else max_batch}
    if parts is None:
        written = write_triton_models(TritonRequest(**common), notify=say)
    else:
        request = TritonPartsRequest(**common, kind=parts, precision=_only_precision(asked))
        written = write_triton_parts(request, notify=say)
    if report is not None:
        from dsmap.common.reports import write_report

        write_report(report, {"models": [str(folder) for folder in written.folders], "bytes": written.bytes})
        say(f"report: {report}")
    say(f"next: tritonserver --model-repository {repository}")


def check_parts(parts: str | None, repository: Path | None) -> None:
    """Raises InputError for --triton-parts without --triton, or of an unknown kind."""
    if parts is not None and repository is None:
        raise InputError("--triton-parts needs --triton, which was not passed", "Pass --triton REPOSITORY.")
    if parts not in (None, "onnx", "tensorrt"):
        raise InputError(f"--triton-parts {parts} is not known", "Use onnx or tensorrt.")


def _only_precision(asked: list[str]) -> str | None:
    if len(asked) > 1:
        raise InputError(f"{' and '.join(f'--{one}' for one in asked)} were both passed", "Choose one of them.")
    return asked[0] if asked else None
