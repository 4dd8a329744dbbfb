"""Quantises the convolutions of float32 graphs to int8 for CPUs (static quantisation, QDQ format).

Activations are unsigned and per tensor, weights signed and per output channel. Ranges are the 99.99 percentile over
calibration images (minimum and maximum cost 1 to 4 dB). The first and the last convolution and the corrections of
reflected borders decide single grey levels: they stay float32, and so do the most sensitive blocks if images come out
too far from float32. Norms, AdaIN and the rest are float32 as well.
"""

import contextlib
import io
import itertools
import logging
import re
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

from dsmap.common.notify import Notify
from dsmap.export.verify import CachedParts, GraphFiles, OnnxParts, compare, open_session

Array = npt.NDArray[Any]
Key = tuple[str, str]
"""Component and domain."""

PERCENTILE = 99.99
TARGETS_DB = {"psnr": 35.5, "worst_psnr": 33.5}
"""dB over all images, and of the worst one: below them, sensitive blocks stay float32. They are stricter than the check
of the precision, which uses other images."""
_PER_FRAME = ("content_encoder", "mapping", "decoder")  # the rest runs once per style, and stays float32
_RANKING_IMAGES = 4  # of each domain
# Channels with less are not scaled: the norm's epsilon of 1e-5 would matter.
_MIN_VARIANCE = 1e-3
_SENSITIVE = re.compile(r"\.(stem|tail|border)$")  # in the names of blocks


class Quantised(NamedTuple):
    """The int8 graphs, and the blocks of convolutions that stayed float32, by component and domain."""

    files: dict[Key, Path]
    float_layers: dict[Key, list[str]]


def quantise(
    files: GraphFiles,
    folder: Path,
    images: Mapping[str, Sequence[Array]],
    styles: Mapping[str, Sequence[Array]],
    say: Notify = lambda _line: None,
) -> Quantised:
    """Writes `COMPONENT.DOMAIN.int8.onnx` to `folder` for each float32 graph in `files` that runs for every frame.

    `images`: calibration images of each domain, uint8 RGB (H, W, 3). `styles`: style codes (S,) of each domain, used in
    turn for the images of the other domain.
    """
    plain = OnnxParts(files)
    inputs = _inputs(plain, images, styles)
    few = {domain: [p[None] for p in found[:_RANKING_IMAGES]] for domain, found in images.items()}
    with tempfile.TemporaryDirectory() as scratch:
        graphs = {key: _QuantisableGraph(key, files[key], found, Path(scratch)) for key, found in inputs.items()}
        error = _Int8Error(plain, few, {domain: codes[0] for domain, codes in styles.items()}, Path(scratch))
        left: dict[Key, set[str]] = {}
        for keys in _directions(styles):
            left |= _sensitive_blocks({key: graphs[key] for key in keys if key in graphs}, error, say)
        out = {key: folder / f"{key[0]}.{key[1]}.int8.onnx" for key in graphs}
        for key, graph in graphs.items():
            graph.write(out[key], graph.blocks - left[key])
    return Quantised(out, {key: sorted(graph.always_float | left[key]) for key, graph in graphs.items()})


def _inputs(
    plain: OnnxParts, images: Mapping[str, Sequence[Array]], styles: Mapping[str, Sequence[Array]]
) -> dict[Key, list[dict[str, Array]]]:
    """The inputs of each graph for each image."""
    found: dict[Key, list[dict[str, Array]]] = {}
    a, b = styles
    for source, target in ((a, b), (b, a)):
        for image, style_s in zip(images.get(source, ()), itertools.cycle(styles[target]), strict=False):
            params = plain.style_params(style_s[None], target)
            content, skip = plain.encode(image[None], source)
            mapped = plain.map(content, skip, target)
            found.setdefault(("content_encoder", source), []).append({"frames": image[None]})
            if plain.has("mapping"):
                found.setdefault(("mapping", target), []).append({"content": content, "skip": skip})
            styled = {"style_params": params} if params.size else {}
            found.setdefault(("decoder", target), []).append({"mapped": mapped, **styled})
    return found


class _Int8Error:
    """Measures the error of quantised graphs on a few images."""

    def __init__(
        self, plain: OnnxParts, batches: Mapping[str, Sequence[Array]], styles: Mapping[str, Array], scratch: Path
    ) -> None:
        self.batches, self.styles, self.scratch = batches, styles, scratch
        self.reference = CachedParts(plain)
        self.open = {key: session for key, session in plain.sessions.items() if key[0] in _PER_FRAME}

    def noise(self, chosen: Mapping["_QuantisableGraph", Collection[str]]) -> dict[str, float]:
        """Noise power by target and check, in units of what TARGETS_DB allow. `chosen`: blocks in int8, by graph."""
        files = {
            graph.key: graph.write(self.scratch / "tried" / f"{'.'.join(graph.key)}.onnx", blocks)
            for graph, blocks in chosen.items()
        }
        batches = {
            encoder[1]: self.batches.get(encoder[1], ()) if files.keys() & {encoder, *others} else []
            for encoder, *others in _directions(self.styles)
        }
        checks = compare(self.reference, OnnxParts(files, self.open), batches, self.styles, lambda _difference: True)
        return {
            f"{aim} of {c.name}": 10 ** ((db - getattr(c, aim)) / 10) for c in checks for aim, db in TARGETS_DB.items()
        }


def _directions(styles: Mapping[str, object]) -> list[list[Key]]:
    """The graphs that run for every frame in each direction, the encoder first. `styles` are by domain."""
    a, b = styles
    return [[("content_encoder", x), ("mapping", y), ("decoder", y)] for x, y in ((a, b), (b, a))]


def _sensitive_blocks(graphs: Mapping[Key, "_QuantisableGraph"], error: _Int8Error, say: Notify) -> dict[Key, set[str]]:
    """Blocks to keep in float32, by graph of one direction, so that no check has more noise than TARGETS_DB allow.

    Each step excludes the block that by itself adds most noise to the worst check.
    """
    left: dict[Key, set[str]] = {key: set() for key in graphs}
    total = error.noise({graph: graph.blocks for graph in graphs.values()})
    if max(total.values(), default=0.0) <= 1:
        return left
    direction = " to ".join(domain for component, domain in graphs if component != "mapping")
    say(f"{direction}: int8 is too far from float32, searching for sensitive blocks")
    single = {
        (key, block): error.noise({graph: {block}}) for key, graph in graphs.items() for block in sorted(graph.blocks)
    }
    while single and max(total.values()) > 1:
        worst = max(total, key=lambda name: total[name])
        key, block = max(single, key=lambda of: single[of].get(worst, 0.0))
        del single[key, block]
        left[key].add(block)
        total = error.noise({graph: graph.blocks - left[key] for key, graph in graphs.items()})
    found = [f"{component}.{domain}: {', '.join(sorted(left[component, domain]))}" for component, domain in left]
    say(f"kept in float32: {'; '.join(text for text in found if not text.endswith(': '))}")
    return left


class _QuantisableGraph:
    """A float32 graph, its convolutions by block, and their ranges."""

    def __init__(self, key: Key, path: Path, inputs: Sequence[dict[str, Array]], scratch: Path) -> None:
        self.key, self.inputs = key, inputs
        model = onnx.load(str(path))
        _equalise_channels(model, inputs)
        self.equalised, self.ranges = (scratch / f"{'.'.join(key)}.{what}" for what in ("onnx", "json"))
        onnx.save_model(model, str(self.equalised))
        convs = [node for node in model.graph.node if node.op_type == "Conv"]
        self.blocks_of = {conv.name: _block(conv.input[1]) for conv in convs}
        self.always_float = {block for block in self.blocks_of.values() if _SENSITIVE.search(block)}
        """Blocks that are never quantised."""
        self.blocks = set(self.blocks_of.values()) - self.always_float

    def write(self, path: Path, blocks: Collection[str]) -> Path:
        """Writes the graph with `blocks` in int8; the first call calibrates."""
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

        path.parent.mkdir(exist_ok=True)
        with _quiet():
            quantize_static(
                str(self.equalised),
                str(path),
                _CalibrationReader(self.inputs),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=[name for name, block in self.blocks_of.items() if block not in blocks],
                calibrate_method=CalibrationMethod.Percentile,
                calibration_cache_path=self.ranges,
                # One image at a time: the features of all images would take gigabytes.
                extra_options={"CalibPercentile": PERCENTILE, "CalibStridedMinMax": 1},
            )
        return path


def _block(weight: str) -> str:
    """The block of a weight: "decoder.blocks.0.conv1.weight" -> "decoder.blocks.0"."""
    strip = re.match(r"(.*?)(\.block)?\.(rows|columns)\b", weight)
    return f"{strip[1]}.border" if strip else re.sub(r"(\.(conv\d|block))?(\.weight)?$", "", weight)


def _equalise_channels(model: onnx.ModelProto, inputs: Sequence[dict[str, Array]]) -> None:
    """Scales and shifts the weights before instance norms, in place: every channel has mean 0 and variance 1 then.

    The norm cancels that. Without it channels whose values differ by orders of magnitude would share one range, and the
    norm would amplify the rounding errors of the small ones.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    normed = {node.input[0] for node in model.graph.node if node.op_type == "InstanceNormalization"}
    uses = Counter(name for node in model.graph.node for name in node.input)
    convs = [
        node
        for node in model.graph.node
        if node.op_type == "Conv" and node.output[0] in normed and uses[node.output[0]] == uses[node.input[1]] == 1
    ]
    if not convs:
        return
    means, variances = _channel_moments(model, [conv.output[0] for conv in convs], inputs)
    for conv, mean, variance in zip(convs, means, variances, strict=True):
        weight, bias = (onnx.numpy_helper.to_array(tensors[name]) for name in conv.input[1:3])
        scale = (1 / np.sqrt(np.maximum(variance, _MIN_VARIANCE))).astype(np.float32)
        even = onnx.numpy_helper.from_array(weight * scale[:, None, None, None], conv.input[1])
        tensors[conv.input[1]].CopyFrom(even)
        name = f"{conv.input[1].removesuffix('.weight')}.even_bias"  # equal biases share a tensor
        even_bias = (bias - mean.astype(np.float32)) * scale
        model.graph.initializer.append(onnx.numpy_helper.from_array(even_bias, name))
        conv.input[2] = name
    used = {name for node in model.graph.node for name in node.input}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in used]:
        model.graph.initializer.remove(tensor)


def _channel_moments(
    model: onnx.ModelProto, names: Sequence[str], inputs: Sequence[dict[str, Array]]
) -> tuple[list[Array], list[Array]]:
    """Mean and variance of each channel of the tensors `names` (N, C, H, W) over all inputs."""
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    probed.graph.output.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names)
    session = open_session(probed.SerializeToString())
    sums: list[Array] = [np.zeros((2, 1)) for _ in names]
    for arrays in inputs:
        for i, y in enumerate(session.run(list(names), arrays)):
            mean, square = (z.mean((0, 2, 3), dtype=np.float64) for z in (y, np.square(y)))
            sums[i] = sums[i] + np.stack([mean, square]) / len(inputs)
    return [s[0] for s in sums], [s[1] - s[0] ** 2 for s in sums]


class _CalibrationReader:
    """Calibration inputs, read by ONNX Runtime in ranges."""

    def __init__(self, inputs: Sequence[dict[str, Array]]) -> None:
        self.inputs = inputs
        self.left: Iterator[dict[str, Array]] = iter(inputs)

    def __len__(self) -> int:
        return len(self.inputs)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Selects the inputs that `get_next` returns."""
        self.left = iter(self.inputs[start_index:end_index])

    def get_next(self) -> dict[str, Array] | None:
        """The next inputs; None at the end."""
        return next(self.left, None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the quantiser, which prints its steps and asks for preprocessing that these graphs do not need."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
