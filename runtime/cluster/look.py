"""What every node is asked before any work: does it have this dsmap and model, and see the same files?"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

Found: TypeAlias = tuple[str, str] | None
"""Fact and advice, with NODE for the node's name; None when all is well."""


class Wanted(NamedTuple):
    """What a node must have."""

    version: str
    """Of dsmap."""
    model: str
    """Name or folder."""
    remote: str | None
    """The server that runs it, if one does."""
    fingerprint: str
    """Of the model."""
    inputs: list[str]
    """Paths that it must see."""
    tokens: list[str]
    """Files that it must see, each in a folder that it must be able to write into."""
    stored_inputs: list[str]
    """Addresses in object stores that it must see."""
    stored_tokens: list[str]
    """Addresses that it must see, and be able to write beside."""


def look_function() -> Callable[[dict[str, Any]], Found]:
    """A function for a node that may lack dsmap: it travels by its code, as it has no name that can be imported."""

    def look(wanted: dict[str, Any]) -> tuple[str, str] | None:
        import os
        import sys
        import tempfile

        try:
            from dsmap import __version__
            from dsmap.errors import DsmapError, InputError
            from dsmap.runtime.jobs import stored
            from dsmap.runtime.open_model import open_model
        except ImportError as error:
            missing = "dsmap is not installed" if error.name == "dsmap" else f"dsmap cannot be loaded ({error})"
            return f"{missing} on NODE, in {sys.executable}", f"install dsmap {wanted['version']} there"
        if __version__ != wanted["version"]:
            fact = f"NODE has dsmap {__version__}, here it is {wanted['version']}"
            return fact, "install the same version on all nodes"
        try:
            bundle = open_model(wanted["model"], wanted["remote"])
        except DsmapError as error:
            advice = "put it where all nodes see it under the same path, and pass that path with --model"
            if wanted["model"].startswith("hf:"):
                advice = f"run there: dsmap models pull {wanted['model']}"
            return f"NODE does not have the model: {error.fact}", advice
        if bundle.fingerprint != wanted["fingerprint"]:
            return f"the model {wanted['model']} on NODE is another one than here", "put the same one everywhere"
        shared = "use storage that all nodes mount under the same path"
        try:
            for address in (*wanted["stored_inputs"], *wanted["stored_tokens"]):
                if not stored.stored_exists(address):
                    return f"NODE does not see {address}", "use a store that all nodes reach, with their credentials"
            for address in wanted["stored_tokens"]:
                stored.write_mark(own := f"{address}-{os.getpid()}")
                stored.remove_mark(own)
        except InputError as error:
            return f"NODE: {error.fact}", error.advice
        for path in wanted["inputs"]:
            if not os.path.exists(path):
                return f"NODE does not see the input {path}", shared
        for token in wanted["tokens"]:
            folder = os.path.dirname(token)
            if not os.path.exists(token):
                return f"NODE does not see the output folder {folder} as it is here", shared
            try:
                with tempfile.TemporaryFile(dir=folder):
                    pass
            except OSError as error:
                return f"NODE cannot write into {folder}: {error.strerror or error}", shared
        return None

    return look
