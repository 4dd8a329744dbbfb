"""Records the engines that this user has built on this machine, which may be loaded by default.

An engine's sidecar says what it was built from, but whoever brings an engine brings its sidecar. So every engine that
dsmap builds is written down, by its SHA-256, in the user's own cache; one that is not there is somebody else's. Engines
that move (a bundle is copied or renamed) stay known, and one whose bytes change does not.
"""

import re
from datetime import UTC, datetime
from pathlib import Path

from dsmap.common.cache_folder import check_private, private_folder, user_cache_folder
from dsmap.common.files import is_own_file, read_regular
from dsmap.common.state_files import open_state

ENGINES = "engines"
_RECORD = "built-here.txt"
_MAX_BYTES = 64 << 20  # half a million engines

NOT_OURS = "it was not built here by you, and engines are code; --trust-engines runs it as it is"


def remember_engine(sha256: str, path: Path) -> None:
    """Records that this user has built the engine with this hash. Raises DsmapError where the cache is not private.

    `path` is recorded for people to read.
    """
    record = private_folder(ENGINES) / _RECORD
    with open_state(record, "a") as file:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        file.write(f"{sha256} {when} {path.name!a}\n")


def was_built_here(sha256: str) -> bool:
    """Whether the engine with this hash is one that this user has built on this machine.

    Raises DsmapError where the record may have been written by others.
    """
    record = user_cache_folder() / ENGINES / _RECORD
    if not is_own_file(record) or not re.fullmatch(r"[0-9a-f]{64}", sha256):
        return False
    check_private(ENGINES)
    lines = read_regular(record, limit=_MAX_BYTES, what="the record of engines").splitlines()
    return any(line.startswith(sha256.encode() + b" ") for line in lines)
