"""A bundle that a Triton server has: its description is here, its files are not.

bundle = open_remote("grpc://gpu-box:8001", "summer-winter")
translator = Translator.load(bundle, domain="winter")
"""

from pathlib import Path

from dsmap.common.strict_json import parse_json
from dsmap.common.text import printable
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.backends.triton.address import TritonAddress, parse_address
from dsmap.runtime.backends.triton.connection import TritonConnection
from dsmap.runtime.bundle.bundle import Bundle, File
from dsmap.runtime.bundle.manifest import FORMAT_VERSION, MAX_MANIFEST_BYTES, Manifest, parse_manifest
from dsmap.runtime.triton import interface as served

_EXPORT_AGAIN = "Export it for the server again, with dsmap-export --triton of this version."


class RemoteBundle(Bundle):
    """A model of a server. Holds plain values only: it can be pickled, and keeps no connection."""

    only_backend = "triton"

    def __init__(self, address: TritonAddress, model: str, manifest: Manifest, parameters: dict[str, str]) -> None:
        self.address, self.model, self.manifest = address, model, manifest
        self._held, self._checked = {}, True
        self.folder = Path(f"{address}/{model}")  # for messages: nothing is there
        self._sha256 = parameters[served.BUNDLE_SHA256]
        self.backend = printable(parameters.get(served.BACKEND, "auto"))[:40]
        """What runs the model there, as its configuration says; "auto": what the server has chosen."""
        self._precision = printable(parameters.get(served.PRECISION, "auto"))[:20]

    @property
    def closed_folders(self) -> list[tuple[Path, str]]:
        """As `Bundle.closed_folders`: none."""
        return []

    @property
    def precisions(self) -> tuple[str, ...]:
        """What the server has chosen."""
        return (self._precision,)

    @property
    def fingerprint(self) -> str:
        """The hash of the bundle that the server says it serves."""
        return self._sha256

    def check(self) -> None:
        """The server has checked its files."""

    def release(self) -> None:
        """Nothing is held."""

    def _read(self, file: File) -> bytes:
        raise DsmapError(f"the files of {self.model} are on {self.address}", "Use a bundle on this machine for this.")


def open_remote(address: str, model: str | Path) -> RemoteBundle:
    """The model called `model` of the server at `address`, as its configuration describes it.

    Raises InputError for an address that is none, a model that the server does not have, with those that it has, and
    one that is not of this version's format; DsmapError when no server answers or the model is not ready.
    """
    server = parse_address(address)
    if isinstance(model, Path) or "/" in model or "\\" in model:
        raise InputError(
            f"--model {model} is not the name of a model on a server", "Pass the name that the server gives it."
        )
    with TritonConnection(server) as connection:
        parameters = connection.parameters_of(model)
    shown = f"the model {printable(model)} at {server}"
    _check_format(parameters, shown)
    if served.is_stabilised(parameters):
        fact = f"{shown} is for clients that send each video as a sequence"
        raise InputError(fact, f"Pass --model {model.removesuffix(served.STABILISED_SUFFIX)} with --stabilize.")
    text = parameters[served.BUNDLE_MANIFEST].encode()
    if len(text) > MAX_MANIFEST_BYTES:
        raise InputError(f"{shown} has a description of {len(text)} bytes", _EXPORT_AGAIN)
    manifest = parse_manifest(parse_json(text, what=f"the description of {shown}", advice=_EXPORT_AGAIN), shown)
    return RemoteBundle(server, model, manifest, parameters)


def _check_format(parameters: dict[str, str], shown: str) -> None:
    """Raises InputError for a model that is not ours, and for one of another format."""
    if served.BUNDLE_FORMAT not in parameters:
        raise InputError(f"{shown} was not made by dsmap-export --triton", "Pass another --model.")
    got = parameters[served.BUNDLE_FORMAT]
    if got != str(FORMAT_VERSION):
        newer = got.isdigit() and int(got[:9]) > FORMAT_VERSION
        raise InputError(
            f"{shown} has bundle format {printable(got)[:20]}; this dsmap reads format {FORMAT_VERSION}",
            "Update dsmap here." if newer else _EXPORT_AGAIN,
        )
    if not (parameters.get(served.BUNDLE_MANIFEST) and parameters.get(served.BUNDLE_SHA256)):
        fact = f"{shown} is for clients of other kinds: it does not describe its bundle"
        raise InputError(fact, "Pass the --model that dsmap-export --triton has written for the Python backend.")
