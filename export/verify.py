"""Exported graphs beside the torch network they came from: each part on its own, and the chain.

Each graph gets exactly what torch's part got, so that one part's error does not hide in another's.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch

from dsmap.errors import DsmapError
from dsmap.export.graphs import from_frames, to_frames
from dsmap.model import DSMAP

# float32 against float32: other summation orders, and now and then a value that rounds to the next grey level.
FEATURE_TOLERANCE = 1e-3  # times max(1, largest value)
FRAME_PSNR = 50.0  # dB

Array = npt.NDArray[Any]


class Check(NamedTuple):
    """One graph (or the chain into one domain) over all pictures."""

    name: str
    max_error: float
    """Largest absolute difference: of frames in grey levels, of features in their own unit."""
    psnr: float
    """In dB against the output's range (frames: 255); infinite when equal."""
    passed: bool


class Verification(NamedTuple):
    """All checks of a bundle and what they were made on."""

    checks: list[Check]
    pictures: int
    origin: str

    def as_dict(self) -> dict[str, Any]:
        """For bundle.json; an infinite PSNR is written as null."""
        rows = {
            c.name: {"max_error": c.max_error, "psnr_db": None if np.isinf(c.psnr) else round(c.psnr, 2)}
            for c in self.checks
        }
        return {
            "against": f"torch {torch.__version__}, float32",
            "pictures": self.pictures,
            "origin": self.origin,
            "checks": rows,
        }


def verify_graphs(
    model: DSMAP, files: Mapping[tuple[str, str], Path], pictures: Mapping[str, Sequence[Array]], origin: str
) -> Verification:
    """Compares the ONNX `files`, by (component, domain), with `model` on `pictures`, by domain (uint8 RGB (H, W, 3)).

    The sizes must fit the network. Every graph also gets a batch of two. Raises DsmapError when one is off: the bundle
    is not good then.
    """
    sessions = {key: _session(path) for key, path in files.items()}
    pairs: dict[str, list[tuple[Array, Array]]] = {}
    for source in model.domains:
        batches = [picture[None] for picture in pictures[source]]
        batches.append(np.stack([batches[0][0], batches[0][0][:, ::-1]]))
        for frames in batches:
            for name, expected, got in _compare(model, sessions, frames, source):
                pairs.setdefault(name, []).append((expected, got))
    checks = [_check(name, both) for name, both in sorted(pairs.items())]
    failed = [check for check in checks if not check.passed]
    if failed:
        worst = failed[0]
        raise DsmapError(
            f"the exported {worst.name} differs from torch: max error {worst.max_error:.3g}, PSNR {worst.psnr:.1f} dB",
            "The bundle was not written. Please report this with the checkpoint's configuration.",
        )
    return Verification(checks, sum(map(len, pictures.values())), origin)


@torch.no_grad()
def _compare(
    model: DSMAP, sessions: Mapping[tuple[str, str], Any], frames: Array, source: str
) -> list[tuple[str, Array, Array]]:
    """(name, torch's array, the graph's array) of every output of every graph, and of the chain, for one batch."""
    target = model.other(source)
    x_nchw = from_frames(torch.from_numpy(np.ascontiguousarray(frames)))
    content = model.encode(x_nchw, source)
    mapped = model.map(content, target)
    own_style = model.encode_style(x_nchw, source)
    style = torch.linspace(-1, 1, model.config.style_dim).expand(len(frames), -1).contiguous()
    out = to_frames(model.decode(mapped, style, target)).numpy()

    encoder = sessions["content_encoder", source].run(["content", "skip"], {"frames": frames})
    rows = [
        (f"content_encoder {source}: content", content.shared.numpy(), encoder[0]),
        (f"content_encoder {source}: skip", content.skip.numpy(), encoder[1]),
        (
            f"style_encoder {source}",
            own_style.numpy(),
            sessions["style_encoder", source].run(None, {"frames": frames})[0],
        ),
    ]
    chained = encoder[0]
    if ("mapping", target) in sessions:
        mapping = sessions["mapping", target]
        alone = mapping.run(None, {"content": content.shared.numpy(), "skip": content.skip.numpy()})[0]
        rows.append((f"mapping {target}", mapped.numpy(), alone))
        chained = mapping.run(None, {"content": encoder[0], "skip": encoder[1]})[0]
    style_params = model.style_mlps[model.slot(target)](style).numpy()
    params = sessions["style_mlp", target].run(None, {"style": style.numpy()})[0]
    rows.append((f"style_mlp {target}", style_params, params))
    decoder = sessions["decoder", target]
    alone = decoder.run(None, {"mapped": mapped.numpy(), "style_params": style_params})[0]
    rows.append((f"decoder {target}", out, alone))
    rows.append((f"chain {source} to {target}", out, decoder.run(None, {"mapped": chained, "style_params": params})[0]))
    if ("style_decoder", target) in sessions:
        found = sessions["style_decoder", target].run(None, {"mapped": mapped.numpy(), "style": style.numpy()})[0]
        rows.append((f"style_decoder {target}", out, found))
    if ("fused", target) in sessions:
        found = sessions["fused", target].run(None, {"frames": frames, "style_params": params})[0]
        rows.append((f"fused {target}", out, found))
    return rows


def generated_pictures(size: int, count: int, seed: int = 0) -> list[Array]:
    """Soft coloured noise with a little grain, for a model whose pictures are not at hand: uint8 (size, size, 3)."""
    rng = np.random.default_rng(seed)
    pictures = []
    for _ in range(count):
        soft = cv2.resize(
            rng.uniform(0, 255, (6, 6, 3)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC
        )
        pictures.append(np.clip(soft + rng.normal(0, 8, (size, size, 3)), 0, 255).astype(np.uint8))
    return pictures


def _check(name: str, pairs: Sequence[tuple[Array, Array]]) -> Check:
    """One Check over all pictures of a graph's output. A shape that differs, or a NaN, fails."""
    frames = pairs[0][0].dtype == np.uint8
    if any(a.shape != b.shape or a.dtype != b.dtype for a, b in pairs):
        return Check(name, float("inf"), 0.0, False)
    differences = [a.astype(np.float64) - b for a, b in pairs]
    max_error = float(max(np.abs(d).max() for d in differences))
    mse = float(np.mean([np.mean(d**2) for d in differences]))
    largest = max(float(np.abs(a).max()) for a, _ in pairs)
    peak = 255.0 if frames else max(largest, 1e-12)
    psnr = float("inf") if mse == 0 else float(10 * np.log10(peak**2 / mse))
    passed = psnr >= FRAME_PSNR if frames else max_error <= FEATURE_TOLERANCE * max(1.0, largest)
    return Check(name, max_error, psnr, bool(passed))


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
