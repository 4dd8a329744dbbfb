"""Finds the blocks that have to stay in float32 so that images of int8 come out close to those of float32.

The noise that each block adds by itself is measured once, on few images. Noise powers add up nearly, so they tell in
which order blocks should go back to float32 and about how many; how many are really needed is measured.
"""

import time
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dsmap.common.notify import Notify
from dsmap.export.int8_calibration import PER_FRAME, Key
from dsmap.export.int8_graph import QuantisableGraph
from dsmap.export.verify import GraphFiles, OnnxParts, compare

Array = npt.NDArray[Any]
Noise = Mapping[str, float]
"""Noise power by check, in units of what TARGETS_DB allow."""

TARGETS_DB = {"psnr": 35.5, "worst_psnr": 33.5}
"""dB over all images, and of the worst one: below them, sensitive blocks stay float32. They are stricter than the check
of the precision, which uses other images."""
_IMAGES = 4  # on which int8 is measured
_RANKING_IMAGES = 2  # on which each block is measured by itself
_SAY_AFTER = 15.0  # seconds


class Block(NamedTuple):
    """A block of convolutions of a graph."""

    key: Key
    name: str


class SensitiveBlocks:
    """The search in one direction after the other."""

    def __init__(
        self,
        plain: OnnxParts,
        images: Mapping[str, Sequence[Array]],
        styles: Mapping[str, Array],
        scratch: Path,
        say: Notify,
    ) -> None:
        self._batches = {domain: [image[None] for image in found[:_IMAGES]] for domain, found in images.items()}
        self._styles, self._scratch, self._say = styles, scratch, say
        self._reference = _Remembered(plain)

    def find(self, graphs: Mapping[Key, QuantisableGraph]) -> dict[Key, set[str]]:
        """The blocks to keep in float32, by graph of one direction, so that no check has more noise than allowed."""
        everything = {Block(key, name) for key, graph in graphs.items() for name in graph.blocks}
        total = self._noise(graphs, everything)
        if max(total.values(), default=0.0) <= 1:
            return {key: set() for key in graphs}
        direction = " to ".join(domain for component, domain in graphs if component != "mapping")
        self._say(f"{direction}: int8 is too far from float32, searching for sensitive blocks ...")
        order, expected = ranking(self._alone(graphs, everything), total)
        needed = self._fewest(graphs, order, expected)
        left = {key: {block.name for block in order[:needed] if block.key == key} for key in graphs}
        found = [f"{'.'.join(key)}: {', '.join(sorted(names))}" for key, names in left.items() if names]
        self._say(f"kept in float32: {'; '.join(found)}")
        return left

    def _alone(self, graphs: Mapping[Key, QuantisableGraph], blocks: set[Block]) -> dict[Block, Noise]:
        """The noise of each block by itself."""
        found: dict[Block, Noise] = {}
        told = time.monotonic()
        for block in sorted(blocks):
            found[block] = self._noise(graphs, {block}, _RANKING_IMAGES)
            if time.monotonic() - told > _SAY_AFTER:
                told = time.monotonic()
                self._say(f"  {len(found)} of {len(blocks)} blocks measured ...")
        return found

    def _fewest(self, graphs: Mapping[Key, QuantisableGraph], order: Sequence[Block], expected: int) -> int:
        """How many of the first blocks of `order` have to be float32. `expected` is tried first."""
        too_few, enough, tried = 0, len(order), expected
        while enough - too_few > 1:
            tried = min(max(tried, too_few + 1), enough - 1)
            noise = max(self._noise(graphs, set(order[tried:])).values())
            self._say(f"  {tried} of {len(order)} blocks in float32: {'enough' if noise <= 1 else 'too few'} ...")
            if noise <= 1:
                enough, tried = tried, tried - 1
            else:
                too_few, tried = tried, tried + 1
        return enough

    def _noise(self, graphs: Mapping[Key, QuantisableGraph], chosen: set[Block], count: int = _IMAGES) -> Noise:
        """The noise with the `chosen` blocks in int8, on `count` images."""
        files = {
            key: graph.write(self._scratch / "tried" / f"{'.'.join(key)}.onnx", names)
            for key, graph in graphs.items()
            if (names := {block.name for block in chosen if block.key == key})
        }
        source = next(domain for component, domain in graphs if component == "content_encoder")
        batches = {source: self._batches.get(source, [])[:count]}
        checks = compare(self._reference, _Tried(self._reference, files), batches, self._styles, lambda _: True)
        return {
            f"{aim} of {c.name}": 10 ** ((db - getattr(c, aim)) / 10) for c in checks for aim, db in TARGETS_DB.items()
        }


def ranking(alone: Mapping[Block, Noise], total: Noise) -> tuple[list[Block], int]:
    """The order in which blocks go back to float32, and how many are expected to be enough.

    `alone`: the noise of each block by itself; `total`: that of all together. The next block is always the noisiest one
    in the check with most noise left, where each check's noises are scaled so that their sum is its total.
    """
    checks = list(total)
    noise = {block: np.array([found.get(check, 0.0) for check in checks]) for block, found in alone.items()}
    together = np.array(list(total.values()))
    scale = together / np.maximum(sum(noise.values(), np.zeros(len(checks))), 1e-30)
    order: list[Block] = []
    expected = len(noise)
    left = dict(noise)
    while left:
        remaining = scale * sum(left.values(), np.zeros(len(checks)))
        if remaining.max() <= 1:
            expected = min(expected, len(order))
        worst = int(remaining.argmax())
        block = max(left, key=lambda one: left[one][worst])
        del left[block]
        order.append(block)
    return order, expected


class _Remembered:
    """Float32 components that remember their outputs: a reference for many candidates."""

    def __init__(self, plain: OnnxParts) -> None:
        self.plain = plain
        self.known: dict[bytes, Any] = {}

    def __getattr__(self, method: str) -> Any:
        def answer(*inputs: Array | str) -> Any:
            key = _digest(method, inputs)
            if key not in self.known:
                self.known[key] = getattr(self.plain, method)(*inputs)
            return self.known[key]

        return answer


class _Tried(OnnxParts):
    """The float32 components with some graphs replaced. What the reference has computed is not computed again."""

    def __init__(self, reference: _Remembered, files: GraphFiles) -> None:
        kept = {key: session for key, session in reference.plain.sessions.items() if key[0] in PER_FRAME}
        super().__init__(files, kept)
        self._known, self._changed = reference.known, set(files)
        self._last: dict[str, tuple[bytes, Any]] = {}

    def encode(self, frames: Array, domain: str) -> tuple[Array, Array]:
        return self._answer("encode", "content_encoder", frames, domain)

    def map(self, content: Array, skip: Array, target: str) -> Array:
        return self._answer("map", "mapping", content, skip, target)

    def decode(self, mapped: Array, style_params: Array, target: str) -> Array:
        return self._answer("decode", "decoder", mapped, style_params, target)

    def _answer(self, method: str, component: str, *inputs: Any) -> Any:
        key = _digest(method, inputs)
        if (component, inputs[-1]) not in self._changed and key in self._known:
            return self._known[key]
        if self._last.get(method, (b"",))[0] != key:  # the chain has a component's inputs if nothing before it changed
            self._last[method] = key, getattr(super(), method)(*inputs)
        return self._last[method][1]


def _digest(method: str, inputs: Sequence[Array | str]) -> bytes:
    state = blake2b(method.encode(), digest_size=16)
    for x in inputs:
        state.update(x.encode() if isinstance(x, str) else np.ascontiguousarray(x).data)
    return state.digest()
