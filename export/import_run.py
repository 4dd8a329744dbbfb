"""Imports from start to end: checkpoints of other trainers are read, and written as a bundle like one's own.

result = import_model(ImportRequest(checkpoints=[Path("latest_net_G_A.pth")], domains=("horse", "zebra"), out=out))
"""

import time
from pathlib import Path

from dsmap.common.archives import check_archive
from dsmap.common.notify import Notify
from dsmap.config.base import check_given_domains
from dsmap.export.import_request import ADVICE, ImportRequest
from dsmap.export.run import ExportResult, check_packages, read_card, write_and_sum_up


def import_model(request: ImportRequest, *, say: Notify = lambda _line: None) -> ExportResult:
    """Writes the bundle `request.out`, whole and checked or not at all.

    `say` receives a line about each step. Raises InputError for a request that cannot be met and for files that are no
    generators of a known layout, DsmapError when a check fails or the disk is full.
    """
    began = time.monotonic()
    _check_inputs(request)
    card = read_card(request.card)
    from dsmap.export.bundle_folder import check_bundle_folder

    check_bundle_folder(request.out, overwrite=request.overwrite)
    check_packages()
    say("loading torch ...")
    from dsmap.export.foreign_model import open_foreign

    written, costs = write_and_sum_up(open_foreign(request, say), request, card, say)
    return ExportResult(Path(request.out), written, costs, [], time.monotonic() - began)


def _check_inputs(request: ImportRequest) -> None:
    """Raises InputError for files that cannot be what is asked for, before anything slow."""
    for path in request.checkpoints:
        check_archive(path, "the checkpoint", ADVICE)
    check_given_domains(request.domains)
    if request.data is not None:
        from dsmap.training.datasets import find_domains

        find_domains(request.data, names=request.domains)
