"""Imports from start to end: checkpoints of other trainers are read, and written as a bundle like one's own.

result = import_model(ImportRequest(checkpoints=[Path("latest_net_G_A.pth")], domains=("horse", "zebra"), out=out))
"""

import time
from pathlib import Path

from dsmap.common.notify import Notify
from dsmap.export.import_request import ImportRequest
from dsmap.export.run import ExportResult, check_packages, read_card


def import_model(request: ImportRequest, *, say: Notify = lambda _line: None) -> ExportResult:
    """Writes the bundle `request.out`, whole and checked or not at all.

    `say` receives a line about each step. Raises InputError for a request that cannot be met and for files that are no
    generators of a known layout, DsmapError when a check fails or the disk is full.
    """
    from dsmap.export.bundle_folder import check_bundle_folder

    began = time.monotonic()
    card = read_card(request.card)
    check_bundle_folder(request.out, overwrite=request.overwrite)
    check_packages()
    say("loading torch ...")
    from dsmap.export.bundle_writer import Variants, write_bundle
    from dsmap.export.costs import graph_costs
    from dsmap.export.foreign_model import open_foreign
    from dsmap.export.report import summary
    from dsmap.export.rewrites import Rewrites

    source = open_foreign(request, say)
    written = write_bundle(
        source,
        request.out,
        name=request.name,
        licence=request.licence,
        card=card,
        datasets=request.datasets,
        overwrite=request.overwrite,
        variants=Variants(fp16=request.fp16, int8=request.int8, force=request.force),
        say=say,
    )
    costs = graph_costs(source.model, Rewrites())
    for line in summary(request.out, written, costs):
        say(line)
    return ExportResult(Path(request.out), written, costs, [], time.monotonic() - began)
