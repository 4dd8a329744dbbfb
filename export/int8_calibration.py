"""Observes float32 graphs on calibration images: moments of channels and ranges of activations, in one pass."""

from collections.abc import Collection, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from dsmap.export.verify import GraphFiles, OnnxParts, open_session

Array = npt.NDArray[Any]
Key = tuple[str, str]
"""Component and domain."""

PER_FRAME = ("content_encoder", "mapping", "decoder")
"""The components to quantise; the rest runs once per style, and stays float32."""
STYLE = "style_params"
"""The input of a graph that depends on the style; observed with the tensors of the graph."""
PERCENTILE = 99.99
"""Of activations: minimum and maximum cost 1 to 4 dB."""
_SAMPLES = 32768  # values of each tensor and image, of which the percentile is taken


class Activation:
    """A tensor (1, C, H, W) over the calibration images: exact moments of its channels, and samples of its pixels."""

    def __init__(self) -> None:
        self._sums: Array = np.zeros((2, 1))
        self._samples: list[Array] = []

    def add(self, y_nchw: Array) -> None:
        """Adds an image."""
        pixels = y_nchw[0].reshape(y_nchw.shape[1], -1)
        self._sums = self._sums + np.stack([pixels.mean(1), np.square(pixels).mean(1)]).astype(np.float64)
        channels, count = pixels.shape
        wanted = max(1, _SAMPLES // channels)
        if count > wanted:
            pixels = pixels[:, np.random.default_rng(len(self._samples)).integers(0, count, wanted)]
        self._samples.append(pixels.copy())

    @property
    def moments(self) -> tuple[Array, Array]:
        """Mean and variance of each channel."""
        mean, square = self._sums / len(self._samples)
        return mean, square - mean**2

    @property
    def powers(self) -> Array:
        """The mean square of each image: (images,)."""
        return np.array([np.square(y, dtype=np.float64).mean() for y in self._samples])

    def balanced(self, factor: Array, shift: Array) -> "Activation":
        """This tensor with channel c as `(y - shift[c]) / factor[c]`."""
        return _of_samples([(y - shift[:, None]) / factor[:, None] for y in self._samples])

    def divided(self, levels: Array) -> "Activation":
        """This tensor with image i divided by `levels[i]`."""
        return _of_samples([y / level for y, level in zip(self._samples, levels, strict=True)])

    def range(self) -> tuple[float, float]:
        """The lowest and highest value to represent: those that occur, but no larger than the percentile."""
        values = np.concatenate(self._samples, 1).ravel()
        limit = float(np.percentile(np.abs(values), PERCENTILE))
        return max(float(values.min()), -limit), min(float(values.max()), limit)


def _of_samples(samples: list[Array]) -> Activation:
    """An activation that is known by samples (C, pixels) of each image only."""
    found = Activation()
    for y in samples:
        found.add(y[None])
    return found


class _ObservedParts(OnnxParts):
    """The components of a bundle, some of whose tensors are recorded whenever they run."""

    def __init__(self, files: GraphFiles, names: Mapping[Key, Sequence[str]]) -> None:
        plain = {key: path for key, path in files.items() if key not in names}
        super().__init__(plain, {key: open_session(_with_outputs(files[key], names[key])) for key in names})
        self.names = names
        self.found: dict[Key, dict[str, Activation]] = {}

    def run(self, component: str, domain: str, **inputs: Array) -> list[Array]:
        outputs, names = super().run(component, domain, **inputs), self.names.get((component, domain), ())
        own = len(outputs) - len(names)
        found = self.found.setdefault((component, domain), {})
        if STYLE in inputs:
            found.setdefault(STYLE, Activation()).add(inputs[STYLE])
        for name, y_nchw in zip(names, outputs[own:], strict=True):
            found.setdefault(name, Activation()).add(y_nchw)
        return outputs[:own]


def observe(
    files: GraphFiles,
    names: Mapping[Key, Sequence[str]],
    images: Mapping[str, Sequence[Array]],
    styles: Mapping[str, Sequence[Array]],
) -> dict[Key, dict[str, Activation]]:
    """The tensors `names` of each graph on the `images` of its direction (see `int8.quantise`), by graph and name.

    Graphs of a direction without images are left out.
    """
    parts = _ObservedParts(files, {key: found for key, found in names.items() if key in files})
    a, b = styles
    for source, target in ((a, b), (b, a)):
        for image, style_s in zip(images.get(source, ()), cycle(styles[target]), strict=False):
            params = parts.style_params(style_s[None], target)
            content, skip = parts.encode(image[None], source)
            parts.decode(parts.map(content, skip, target), params, target)
    return {key: found for key, found in parts.found.items() if key in names}


def _with_outputs(path: Any, names: Collection[str]) -> bytes:
    """A graph that gives the tensors `names`, too, after its own outputs."""
    model = onnx.load(str(path))
    model.graph.output.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names)
    return model.SerializeToString()
