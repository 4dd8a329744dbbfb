"""Outputs of an evaluation: the terminal, JSON, a page, and a folder of translations."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dsmap.common.atomic import rename_no_replace, sync_folder, sync_tree
from dsmap.common.notify import Notify
from dsmap.common.output_files import check_folder_writable, keep_beside
from dsmap.common.part_files import part_folder
from dsmap.common.reports import write_report
from dsmap.common.scratch import scratch_folder
from dsmap.errors import DsmapError, InputError
from dsmap.metrics.report.html import write_page
from dsmap.metrics.report.table import numbers, table
from dsmap.metrics.types import Report


def check_results_folder(folder: Path | None) -> None:
    """Raises InputError unless `folder`, for the translations, is new or empty and can be made."""
    if folder is None:
        return
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--results {folder} is a file", "Pass a folder's name.")
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"--results {folder} exists and is not empty", "Choose a new folder.")
    check_folder_writable(folder.resolve().parent, "--results")


@contextmanager
def results_folder(folder: Path | None) -> Iterator[Path]:
    """A folder for translations, which becomes `folder` once all of them are there; None: it is removed afterwards."""
    if folder is None:
        with scratch_folder("eval") as scratch:
            yield scratch
        return
    final = folder.resolve()
    part = part_folder(final)
    try:
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    try:
        sync_tree(part)
        if final.is_dir():
            final.rmdir()  # it was empty
        rename_no_replace(part, final)
    except OSError as error:
        place = keep_beside(part, final)
        raise DsmapError(
            f"--results {folder} was filled meanwhile, or cannot be written: {error.strerror}",
            f"The translations of this evaluation are in {place}.",
        ) from error
    sync_folder(final.parent)


def write_results(reports: Sequence[Report], report: Path | None, page: Path | None, say: Notify) -> None:
    """Says the tables, and writes the files that were asked for."""
    width = max(60, shutil.get_terminal_size((100, 24)).columns)
    for one in reports:
        for line in ("", *table(one, width=width).split("\n")):
            say(line)
    if report is not None:
        tree = numbers(reports[0]) if len(reports) == 1 else {"reports": [numbers(one) for one in reports]}
        write_report(report, tree)
        say(f"report: {report}")
    if page is not None:
        write_page(page, *reports)
        say(f"page: {page}")
