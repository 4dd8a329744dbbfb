"""Compares two versions of a network: torch with its graphs, or float32 graphs with those of another precision.

Each component under test receives the inputs of the reference's, so that errors do not add up; then the whole chain
runs by itself.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch

from dsmap.common.cpu import allowed_cores
from dsmap.errors import DsmapError
from dsmap.export.differences import Difference, OutputCheck
from dsmap.export.graphs import from_frames, to_frames
from dsmap.model.any_model import AnyModel, StyledModel
from dsmap.model.cyclegan import CycleGAN
from dsmap.model.dsmap import DSMAP, Content
from dsmap.model.munit import MUNIT

# float32 against float32: sums in another order, so that some values round to the next grey level.
FEATURE_TOLERANCE = 1e-3  # times max(1, largest value)
FRAME_PSNR = 50.0  # dB

Array = npt.NDArray[Any]
GraphFiles = Mapping[tuple[str, str], Path]
"""The files of a bundle's graphs, by component and domain."""


class Verification(NamedTuple):
    """The comparison of a bundle's float32 graphs with torch."""

    checks: list[OutputCheck]
    images: int
    origin: str

    def as_dict(self) -> dict[str, Any]:
        """As bundle.json holds it."""
        return {
            "against": f"torch {torch.__version__}, float32",
            "pictures": self.images,
            "origin": self.origin,
            "checks": {c.name: c.as_dict() for c in self.checks},
        }


NOTHING = np.zeros(0, np.float32)
"""The skip feature of a network without mapping, and the style's parameters of one without styles."""


class NetworkParts(Protocol):
    """The components of a network, however they run; arrays are those of the graphs, or `NOTHING`."""

    def encode(self, frames: Array, domain: str) -> tuple[Array, Array]: ...

    def map(self, content: Array, skip: Array, target: str) -> Array: ...

    def style_params(self, style: Array, target: str) -> Array: ...

    def decode(self, mapped: Array, style_params: Array, target: str) -> Array: ...

    def encode_style(self, frames: Array, domain: str) -> Array: ...


class _StyledParts:
    """What networks with styles have in common."""

    def __init__(self, model: StyledModel) -> None:
        self._styled = model

    @torch.no_grad()
    def style_params(self, style: Array, target: str) -> Array:
        """style -> style_params."""
        return self._styled.style_mlps[self._styled.slot(target)](_tensor(style)).numpy()

    @torch.no_grad()
    def decode(self, mapped: Array, style_params: Array, target: str) -> Array:
        """mapped, style_params -> frames."""
        decoder = self._styled.decoders[self._styled.slot(target)]
        return to_frames(decoder(_tensor(mapped), _tensor(style_params))).numpy()

    @torch.no_grad()
    def encode_style(self, frames: Array, domain: str) -> Array:
        """frames -> style."""
        return self._styled.encode_style(from_frames(_tensor(frames)), domain).numpy()


class TorchParts(_StyledParts):
    """The components of a DSMAP in torch."""

    def __init__(self, model: DSMAP) -> None:
        super().__init__(model)
        self.model = model

    @torch.no_grad()
    def encode(self, frames: Array, domain: str) -> tuple[Array, Array]:
        """frames -> content, skip."""
        content = self.model.encode(from_frames(_tensor(frames)), domain)
        return content.shared.numpy(), content.skip.numpy()

    @torch.no_grad()
    def map(self, content: Array, skip: Array, target: str) -> Array:
        """content, skip -> mapped."""
        shared = _tensor(content)
        return self.model.map(Content(shared, _tensor(skip), shared), target).numpy()


class UnmappedTorchParts(_StyledParts):
    """The components of a MUNIT in torch: its content is what is decoded."""

    def __init__(self, model: MUNIT) -> None:
        super().__init__(model)
        self.model = model

    @torch.no_grad()
    def encode(self, frames: Array, domain: str) -> tuple[Array, Array]:
        """frames -> content, and no skip."""
        return self.model.encode(from_frames(_tensor(frames)), domain).numpy(), NOTHING

    def map(self, content: Array, _skip: Array, _target: str) -> Array:
        """The content."""
        return content


class PlainTorchParts:
    """The components of a torch model without mapping and styles."""

    def __init__(self, model: CycleGAN) -> None:
        self.model = model

    @torch.no_grad()
    def encode(self, frames: Array, domain: str) -> tuple[Array, Array]:
        """frames -> content, and no skip."""
        return self.model.encode(from_frames(_tensor(frames)), domain).numpy(), NOTHING

    def map(self, content: Array, _skip: Array, _target: str) -> Array:
        """The content."""
        return content

    def style_params(self, _style: Array, _target: str) -> Array:
        """Nothing."""
        return NOTHING

    @torch.no_grad()
    def decode(self, mapped: Array, _style_params: Array, target: str) -> Array:
        """mapped -> frames."""
        return to_frames(self.model.decode(_tensor(mapped), target)).numpy()

    def encode_style(self, _frames: Array, _domain: str) -> Array:
        """Nothing."""
        return NOTHING


def torch_parts(model: AnyModel) -> NetworkParts:
    """The components of a model in torch."""
    match model:
        case CycleGAN():
            return PlainTorchParts(model)
        case MUNIT():
            return UnmappedTorchParts(model)
        case _:
            return TorchParts(model)


class OnnxParts:
    """The components of a bundle, in ONNX Runtime on the CPU."""

    def __init__(
        self, files: Mapping[tuple[str, str], Path | bytes], sessions: Mapping[tuple[str, str], Any] | None = None
    ) -> None:
        """`files`: ONNX files or their bytes. `sessions`: open ones, which `files` replace."""
        self.sessions = {**(sessions or {}), **{key: open_session(path) for key, path in files.items()}}

    def run(self, component: str, domain: str, **inputs: Array) -> list[Array]:
        """All outputs of one graph."""
        return self.sessions[component, domain].run(None, inputs)

    def encode(self, frames: Array, domain: str) -> tuple[Array, Array]:
        """frames -> content, skip."""
        content, *skip = self.run("content_encoder", domain, frames=frames)
        return content, skip[0] if skip else NOTHING

    def map(self, content: Array, skip: Array, target: str) -> Array:
        """content, skip -> mapped; the content if there is no mapping."""
        return self.run("mapping", target, content=content, skip=skip)[0] if self.has("mapping") else content

    def style_params(self, style: Array, target: str) -> Array:
        """style -> style_params."""
        return self.run("style_mlp", target, style=style)[0] if self.has("style_mlp") else NOTHING

    def decode(self, mapped: Array, style_params: Array, target: str) -> Array:
        """mapped, style_params -> frames."""
        styled = {"style_params": style_params} if style_params.size else {}
        return self.run("decoder", target, mapped=mapped, **styled)[0]

    def encode_style(self, frames: Array, domain: str) -> Array:
        """frames -> style."""
        return self.run("style_encoder", domain, frames=frames)[0]

    def has(self, component: str) -> bool:
        """Whether there are graphs of this component."""
        return any(name == component for name, _ in self.sessions)


def verify_graphs(
    model: AnyModel, files: GraphFiles, images: Mapping[str, Sequence[Array]], origin: str
) -> Verification:
    """Compares the ONNX `files` with `model` on `images`, by domain: uint8 RGB (H, W, 3), in sizes that it accepts.

    Every graph also receives a batch of two. Raises DsmapError when an output differs.
    """
    styles = dict.fromkeys(model.domains, np.linspace(-1, 1, model.config.style_dim, dtype=np.float32))
    batches = {
        domain: [*(p[None] for p in found), *(np.stack([p, p[:, ::-1]]) for p in found[:1])]
        for domain, found in images.items()
    }
    checks = compare(torch_parts(model), OnnxParts(files), batches, styles, _equals_torch)
    failed = [check for check in checks if not check.passed]
    if failed:
        worst = failed[0]
        raise DsmapError(
            f"the exported {worst.name} differs from torch: max error {worst.max_error:.3g}, PSNR {worst.psnr:.1f} dB",
            "The bundle was not written. Please report this with the checkpoint's configuration.",
        )
    return Verification(checks, sum(map(len, images.values())), origin)


def compare(
    reference: NetworkParts,
    candidate: OnnxParts,
    batches: Mapping[str, Sequence[Array]],
    styles: Mapping[str, Array],
    passes: Callable[[Difference], bool],
) -> list[OutputCheck]:
    """Compares every output of every graph of `candidate`, and of its chains, with the reference's; sorted by name.

    `batches`: frames (N, H, W, 3) by domain; none of a domain that nothing translates from. `styles`: the style code
    (S,) of all images translated to a domain.
    `passes` decides whether a difference is small enough.
    """
    found: dict[str, Difference] = {}
    a, b = styles
    for source, target in ((a, b), (b, a)):
        for frames in batches.get(source, ()):
            for name, expected, got in _outputs_of(reference, candidate, frames, source, target, styles[target]):
                found.setdefault(name, Difference()).add(expected, got)
    return [difference.check(name, passes) for name, difference in sorted(found.items())]


def _outputs_of(
    reference: NetworkParts, candidate: OnnxParts, frames: Array, source: str, target: str, style_s: Array
) -> Iterator[tuple[str, Array, Array]]:
    """(name, reference, candidate) for every output of every graph, and of the chain, for one batch.

    Graphs that the candidate does not have are skipped; in its chain the reference's outputs are used.
    """
    style = np.ascontiguousarray(np.broadcast_to(style_s, (len(frames), len(style_s))))
    content, skip = reference.encode(frames, source)
    mapped = reference.map(content, skip, target)
    params = reference.style_params(style, target)
    out = reference.decode(mapped, params, target)
    own_params, chained = params, content

    if candidate.has("style_encoder"):
        own_style = candidate.encode_style(frames, source)
        yield f"style_encoder {source}", reference.encode_style(frames, source), own_style
    own_content, own_skip = candidate.encode(frames, source)
    yield f"content_encoder {source}: content", content, own_content
    if skip.size:
        yield f"content_encoder {source}: skip", skip, own_skip
    chained = own_content
    if candidate.has("mapping"):
        yield f"mapping {target}", mapped, candidate.map(content, skip, target)
        chained = candidate.map(own_content, own_skip, target)
    if candidate.has("style_mlp"):
        own_params = candidate.style_params(style, target)
        yield f"style_mlp {target}", params, own_params
    yield f"decoder {target}", out, candidate.decode(mapped, params, target)
    yield f"chain {source} to {target}", out, candidate.decode(chained, own_params, target)


def _equals_torch(difference: Difference) -> bool:
    """Whether a float32 graph equals the network that it was exported from, up to rounding."""
    if difference.frames:
        return difference.psnr >= FRAME_PSNR
    return difference.max_error <= FEATURE_TOLERANCE * max(1.0, difference.largest)


def generated_images(size: int, count: int, seed: int = 0) -> list[Array]:
    """Smooth coloured noise with a little grain, in place of missing images: uint8 (size, size, 3)."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        soft = cv2.resize(
            rng.uniform(0, 255, (6, 6, 3)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC
        )
        images.append(np.clip(soft + rng.normal(0, 8, (size, size, 3)), 0, 255).astype(np.uint8))
    return images


def open_session(model: Path | bytes) -> Any:
    """An ONNX Runtime session for a file, or the bytes of one, on all cores that this process may use."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.enable_mem_pattern = False
    options.intra_op_num_threads = allowed_cores() or 0  # 0: one for each core
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.array(array))  # a copy: torch needs a writable array
