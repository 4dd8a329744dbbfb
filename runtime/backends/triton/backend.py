"""The backend `triton`: frames go to a Triton Inference Server, several under way at a time."""

from collections.abc import Callable, Mapping

import numpy as np

from dsmap.errors import DsmapError, InputError
from dsmap.runtime.backends.base import DEFAULT_SETTINGS, Backend, BackendSettings, Codes, Frames, Pending
from dsmap.runtime.backends.triton.connection import Tensor, TritonConnection, text_tensor
from dsmap.runtime.backends.triton.remote_bundle import RemoteBundle
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.triton import interface as served

MAX_UNDER_WAY = 8
"""Frames: as many as a server batches by default. More would only wait there."""


class TritonBackend(Backend):
    """A model of a server, for one direction. Each frame is a request of its own: the server makes the batches.

    Results are those of the server's own backend, bit by bit.
    """

    name = "triton"
    on_host = False

    def __init__(self, bundle: Bundle, target: str, settings: BackendSettings = DEFAULT_SETTINGS) -> None:
        if not isinstance(bundle, RemoteBundle):
            raise InputError(
                "the backend triton translates on a server, and none was named", "Pass --remote grpc://HOST:8001."
            )
        self._bundle = bundle
        self._connection = TritonConnection(bundle.address)
        self._domains = {
            served.DOMAIN: text_tensor(target),
            served.SOURCE: text_tensor(settings.source or bundle.source_of(target)),
        }
        self.in_flight = max(1, min(settings.frames_at_once, MAX_UNDER_WAY))
        self.precision = bundle.precisions[0]
        try:
            version = self._connection.version()
        except DsmapError:
            self._connection.close()
            raise
        there = "" if bundle.backend == "auto" else f", {bundle.backend} there"
        self.description = f"Triton {version} at {bundle.address}{there}"

    def translate(self, frames_nhwc: Frames, style_ns: Codes) -> Frames:
        """As `Backend.translate`."""
        return self.submit(frames_nhwc, style_ns)()

    def submit(self, frames_nhwc: Frames, style_ns: Codes) -> Pending:
        """As `Backend.submit`; the frames are copied here."""
        styled = self._bundle.manifest.has_styles
        waits = []
        for i in range(len(frames_nhwc)):
            style = {served.STYLE_CODE: style_ns[i : i + 1]} if styled else {}
            waits.append(self._ask(served.TRANSLATED, {served.FRAMES: frames_nhwc[i : i + 1], **style}))

        def wait() -> Frames:
            translated = np.concatenate([one() for one in waits])  # a copy: gRPC's own memory cannot be written
            if translated.shape != frames_nhwc.shape or translated.dtype != np.uint8:
                raise self._wrong(f"{translated.dtype} {translated.shape}", f"uint8 {frames_nhwc.shape}")
            return translated

        return wait

    def encode_style(self, frames_nhwc: Frames) -> Codes:
        """As `Backend.encode_style`; nothing is translated for it."""
        least = self._bundle.manifest.sizes.multiple_of
        blank = np.zeros((1, least, least, 3), np.uint8)
        waits = [
            self._ask(served.STYLE_CODE, {served.FRAMES: blank, served.STYLE_IMAGE: frames_nhwc[i : i + 1]})
            for i in range(len(frames_nhwc))
        ]
        codes = np.concatenate([one() for one in waits]).astype(np.float32)
        expected = len(frames_nhwc), self._bundle.manifest.style_dim
        if codes.shape != expected or not np.isfinite(codes).all():
            raise self._wrong(f"style codes {codes.shape}", f"finite ones {expected}")
        return codes

    def cancel(self) -> None:
        """As `Backend.cancel`."""
        self._connection.cancel()

    def close(self) -> None:
        """As `Backend.close`."""
        self._connection.close()

    def _ask(self, output: str, inputs: Mapping[str, Tensor]) -> Callable[[], Tensor]:
        # The server's repository may change meanwhile: no other bundle than this one may answer.
        parameters = {served.BUNDLE_SHA256: self._bundle.fingerprint}
        return self._connection.ask(self._bundle.model, {**inputs, **self._domains}, output, parameters)

    def _wrong(self, got: str, expected: str) -> DsmapError:
        fact = f"the model {self._bundle.model} at {self._bundle.address} gave {got}, expected {expected}"
        return DsmapError(fact, "Export it again with this version of dsmap.")
