"""Recovers the generators of a bundle from its graphs, to train a model further whose checkpoint is lost."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from pydantic import ValidationError
from torch import Tensor

from dsmap.config import ModelConfig
from dsmap.errors import InputError
from dsmap.export.rewrites import MID_GREY
from dsmap.export.verify import NetworkParts, OnnxParts, TorchParts, generated_images
from dsmap.model.dsmap import DSMAP
from dsmap.model.networks import Decoder
from dsmap.runtime.bundle.bundle import Bundle

# By component of a bundle: prefixes of weights in the graphs, and the parts of DSMAP that they belong to.
_PARTS = {
    "content_encoder": {"encoder.": "content_encoders.{slot}.", "shared.": "shared_encoder."},
    "mapping": {"mapping.": "mappings.{slot}."},
    "style_encoder": {"encoder.": "style_encoders.{slot}."},
    "style_mlp": {"mlp.": "style_mlps.{slot}."},
    "decoder": {"decoder.": "decoders.{slot}."},
}
# Layer norms have no names in the graphs, but are in the order of computation.
_NORMS = {"mapping": ("mappings.{slot}.up_norm", "mappings.{slot}.down_norm")}
_ADVICE = "Start from the checkpoint it was exported from."
_MAX_DIFFERENCE = 2  # grey levels, from rounding


def generators_of_bundle(bundle: Bundle) -> DSMAP:
    """The generators on the CPU in eval mode, from the fp32 graphs, checked to give the same images.

    Raises InputError for a bundle whose graphs do not hold the weights as trained: `dsmap-export` folds those of
    upsampling convolutions (`model.upsampling` nearest).
    """
    name = bundle.manifest.name
    try:
        model = DSMAP(ModelConfig.model_validate(bundle.manifest.architecture))
    except ValidationError as error:
        raise InputError(f"the bundle {name} has an architecture unknown to this version of dsmap", _ADVICE) from error
    expected = model.state_dict()
    keys = [(component, domain) for domain in model.domains for component in _PARTS]
    files = {key: graph.data for key in keys if (graph := bundle.graph_data(*key)) is not None}
    found: dict[str, Tensor] = {}
    for (component, domain), data in files.items():
        found |= _weights_in(onnx.load_from_string(data).graph, component, model, domain)
    missing = [key for key, value in expected.items() if key not in found or found[key].shape != value.shape]
    if missing:
        raise InputError(
            f"the bundle {name} does not hold {len(missing)} of {len(expected)} weights as trained, "
            f"such as {missing[0]}",
            _ADVICE,
        )
    model.load_state_dict({key: found[key] for key in expected})
    model.eval().requires_grad_(False)
    _compare(model, files, name)
    return model


def _weights_in(graph: onnx.GraphProto, component: str, model: DSMAP, domain: str) -> dict[str, Tensor]:
    slot = model.slot(domain)
    values = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in graph.initializer}
    found = {}
    for prefix, place in _PARTS[component].items():
        for name, value in values.items():
            if name.startswith(prefix):
                found[place.format(slot=slot) + name.removeprefix(prefix)] = value
    norms: Sequence[str] = _NORMS.get(component, ())
    if component == "decoder":
        decoder = model.decoders[slot]
        assert isinstance(decoder, Decoder)
        norms = [f"decoders.{slot}.ups.{i}.norm" for i in range(len(decoder.ups))]
    for place, (weight, bias) in zip(norms, _layer_norms(graph, values), strict=False):
        found[f"{place.format(slot=slot)}.weight"], found[f"{place.format(slot=slot)}.bias"] = weight, bias
    return _unscaled(found, slot, 1.0 if model.config.output == "clip" else 2.0)


def _layer_norms(graph: onnx.GraphProto, values: dict[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Scale and shift of each: constants (C, 1, 1) by which the normalised map is multiplied, and which are added."""
    for node in graph.node:
        scale = _constant(node, values) if node.op_type == "Mul" else None
        if scale is None:
            continue
        after = (other for other in graph.node if other.op_type == "Add" and node.output[0] in other.input)
        shift = next((found for found in (_constant(other, values) for other in after) if found is not None), None)
        if shift is not None:
            yield scale.flatten(), shift.flatten()


def _constant(node: onnx.NodeProto, values: dict[str, Tensor]) -> Tensor | None:
    constants = (values[name] for name in node.input if name in values)
    return next((value for value in constants if value.dim() == 3 and value.shape[1:] == (1, 1)), None)


def _unscaled(found: dict[str, Tensor], slot: str, gain: float) -> dict[str, Tensor]:
    """Weights for images in [-1, 1], from those of the bundle for grey levels (`export.rewrites`)."""
    result = dict(found)
    for part in ("content_encoders", "style_encoders"):
        weight, bias = f"{part}.{slot}.stem.weight", f"{part}.{slot}.stem.bias"
        if weight in found and bias in found:
            result[weight] = found[weight] * MID_GREY
            result[bias] = found[bias] + result[weight].sum((1, 2, 3))
    for kind in ("weight", "bias"):
        tail = f"decoders.{slot}.tail.conv.{kind}"
        if tail in found:
            result[f"decoders.{slot}.tail.{kind}"] = result.pop(tail) / gain
    return result


def _compare(model: DSMAP, files: Mapping[tuple[str, str], bytes], name: str) -> None:
    """Raises InputError unless model and graphs give the same translations, in both directions."""
    frames = np.stack(generated_images(64, 1))
    ours, theirs = TorchParts(model), OnnxParts(files)
    for target in model.domains:
        found, expected = (_translated(parts, frames, model.other(target), target) for parts in (ours, theirs))
        worst = int(np.abs(found - expected).max())
        if worst > _MAX_DIFFERENCE:
            raise InputError(
                f"the weights read from the bundle {name} give other translations: up to {worst} grey levels apart",
                _ADVICE,
            )


def _translated(parts: NetworkParts, frames: npt.NDArray[np.uint8], source: str, target: str) -> npt.NDArray[np.int16]:
    """The frames, translated in the style of the frames themselves."""
    mapped = parts.map(*parts.encode(frames, source), target)
    params = parts.style_params(parts.encode_style(frames, target), target)
    return np.asarray(parts.decode(mapped, params, target), np.int16)
