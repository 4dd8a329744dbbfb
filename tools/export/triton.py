"""`dsmap-export BUNDLE --triton REPOSITORY`: adds a bundle to the models of a Triton Inference Server."""

from collections.abc import Mapping
from pathlib import Path

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
) -> None:
    """Writes the models and says what was written. Raises InputError for an option of `others` that was given."""
    for flag, value in others.items():
        if value:
            raise InputError(f"{flag} does not go with --triton", "Make the bundle first; then add it with --triton.")
    closed = [(bundle, "the bundle's folder"), (repository, "the model repository")]
    check_outputs({"--report": report}, [], closed=closed, overwrite=overwrite)
    from dsmap.export.triton import TritonRequest, write_triton_models
    from dsmap.runtime.bundle.bundled import find_model

    request = TritonRequest(
        bundle=find_model(bundle),
        repository=repository,
        name=name,
        overwrite=overwrite,
        **({} if max_batch is None else {"max_batch": max_batch}),
    )
    written = write_triton_models(request, notify=say)
    if report is not None:
        from dsmap.common.reports import write_report

        write_report(report, {"models": [str(folder) for folder in written.folders], "bytes": written.bytes})
        say(f"report: {report}")
    say(f"next: tritonserver --model-repository {repository}")
