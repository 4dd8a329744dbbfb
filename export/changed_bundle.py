"""Changing a bundle: in a copy beside it, which takes its place when it is whole."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dsmap.common.atomic import replace_folder, sync_tree
from dsmap.common.part_files import part_folder
from dsmap.errors import DsmapError


@contextmanager
def changed_bundle(final: Path) -> Iterator[Path]:
    """A copy of the bundle `final` to change, which replaces it when the block ends without an error.

    Raises DsmapError when it cannot be written, such as on a full disk.
    """
    part: Path | None = None
    try:
        part = part_folder(final)
        shutil.copytree(final, part, dirs_exist_ok=True)
        yield part
        sync_tree(part)
        replace_folder(part, final)
    except OSError as error:
        raise DsmapError(f"cannot write {final}: {error}", "Free disk space, then try again.") from error
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
