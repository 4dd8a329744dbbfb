"""Opening a model, wherever it is: in the package, in a folder, or on a server."""

from pathlib import Path

from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.bundle.bundled import find_model


def open_model(model: str | Path, remote: str | None = None) -> Bundle:
    """The bundle of `model`: a name or a folder; with `remote`, the address of a Triton server, the name of one there.

    Raises InputError for what is not there, DsmapError for a server that does not answer.
    """
    if remote is None:
        return Bundle.open(find_model(model))
    from dsmap.runtime.backends.triton.remote_bundle import open_remote

    return open_remote(remote, model)
