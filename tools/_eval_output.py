"""Where an evaluation goes: the terminal, JSON, a page, and a folder of translations that are kept."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dsmap.common.files import check_folder_writable, replace_folder
from dsmap.errors import DsmapError, InputError
from dsmap.metrics.findings import Report
from dsmap.tools._eval_page import write_page
from dsmap.tools._eval_table import numbers, table
from dsmap.tools._reports import write_report


def check_outputs(report: Path | None, page: Path | None, *, overwrite: bool) -> None:
    """All that can be wrong with the names, told before minutes of work. Raises InputError."""
    for path, option in ((report, "--report"), (page, "--page")):
        if path is None:
            continue
        if path.is_dir():
            raise InputError(f"{option} {path} is a folder", "Pass a file's name.")
        if path.exists() and not overwrite:
            raise InputError(f"{option} {path} exists", "Pass --overwrite to replace it, or choose another name.")
        check_folder_writable(path.absolute().parent, option)
    if report and page and report.resolve() == page.resolve():
        raise InputError("--report and --page name the same file", "Give one of them another name.")


def check_results(folder: Path | None) -> None:
    """Raises InputError unless the folder of the translations can be made: it must be new, or empty."""
    if folder is None:
        return
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--results {folder} is a file", "Pass a folder's name.")
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"--results {folder} exists and is not empty", "Choose a new folder.")
    check_folder_writable(folder.resolve().parent, "--results")


@contextmanager
def kept_results(folder: Path | None) -> Iterator[Path]:
    """A folder for translations that becomes `folder` when all of them are there; None: that is gone afterwards."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="dsmap-eval-") as scratch:
            yield Path(scratch)
        return
    final = folder.resolve()
    part = final.with_name(f".{final.name}.{os.getpid()}.part")
    try:
        part.mkdir()
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    if final.exists() and (not final.is_dir() or any(final.iterdir())):
        raise DsmapError(
            f"--results {folder} was filled meanwhile", f"The translations of this evaluation are in {part}."
        )
    replace_folder(part, final)


def tell(reports: Sequence[Report], report: Path | None, page: Path | None, say: Callable[[str], None]) -> None:
    """The tables, and the files that were asked for."""
    width = max(60, shutil.get_terminal_size((100, 24)).columns)
    for one in reports:
        say(f"\n{table(one, width=width)}")
    if report is not None:
        tree = numbers(reports[0]) if len(reports) == 1 else {"reports": [numbers(one) for one in reports]}
        write_report(report, tree)
        say(f"report: {report}")
    if page is not None:
        write_page(page, *reports)
        say(f"page: {page}")
