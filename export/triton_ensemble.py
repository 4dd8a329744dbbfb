"""The graphs of a bundle as models of Triton Inference Server, and ensembles of them: see `triton_parts`."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from dsmap import __version__
from dsmap.errors import InputError
from dsmap.export.triton_facts import bundle_facts, warm_up_side
from dsmap.export.triton_graph import GraphTensors, tensors_of, warmup_shapes
from dsmap.export.triton_plans import Plan, find_plan
from dsmap.export.triton_text import TensorConfig, parameters, quoted, tensors
from dsmap.runtime.bundle.bundle import MEAN, TRANSLATING, Bundle
from dsmap.runtime.bundle.manifest import MANIFEST
from dsmap.runtime.engines.size_profile import Size
from dsmap.runtime.triton import interface as served

PART = "dsmap_part"
"""Parameter of the parts: the graph's component and domain."""
STYLE_CODES = "style_codes"
"""Parameter of an ensemble: the codes of the domain's styles, JSON by name; "mean" is the default style."""
MULTIPLE_OF, MINIMUM = "frames_multiple_of", "frames_minimum"
"""Parameters of an ensemble: the sizes of frames that it takes, in pixels."""
_ONNX, _PLAN = "model.onnx", "model.plan"
_INSTANCES = """
# One instance on each GPU, or one on the CPU.
instance_group [ { count: 1 kind: KIND_AUTO } ]
"""
_BATCHES = """
# Requests that wait are run together, those of one size with those of that size.
dynamic_batching { }
"""
_ACCELERATOR = """
# On NVIDIA GPUs ONNX Runtime runs this graph with CUDA. With its TensorRT, which builds engines when it first runs:
# optimization { execution_accelerators { gpu_execution_accelerator: [ { name: "tensorrt" } ] } }
"""


class ServerModel(NamedTuple):
    """A model to write: its configuration and, but for an ensemble, the file of its version."""

    name: str
    config: str
    file: tuple[str, bytes] | None


class _ServedPart(NamedTuple):
    """A graph of the bundle as a model."""

    component: str
    domain: str
    model: str
    tensors: GraphTensors
    onnx: bytes
    plan: Plan | None
    """The engine that runs it, in place of ONNX Runtime."""


class _EnsembleStep(NamedTuple):
    """A part in an ensemble."""

    part: _ServedPart
    names: Mapping[str, str]
    """What the ensemble calls its tensors, where that differs from the graph's own names."""

    def name_of(self, name: str) -> str:
        """The ensemble's name of a tensor."""
        return self.names.get(name, name)


def models_of(bundle: Bundle, name: str, kind: str, precision: str, max_batch: int) -> list[ServerModel]:
    """The parts of a bundle and an ensemble for each direction, all called `name` and more.

    `kind`: onnx or tensorrt. Raises InputError for a precision or engines that the bundle does not have, and for
    domains whose names would become one.
    """
    if precision not in bundle.precisions:
        raise InputError(
            f"{bundle.manifest.name} has no {precision} graphs; it has {', '.join(bundle.precisions)}",
            f"Leave out --{precision}, or export the model with it.",
        )
    if len({_word(domain) for domain in bundle.domains}) < 2:
        raise InputError(f"the domains {' and '.join(bundle.domains)} get one name", "Export with other --domains.")
    parts = {(part.component, part.domain): part for part in _parts(bundle, name, kind, precision)}
    shapes: dict[Size, Mapping[str, tuple[int, ...]]] = {}
    models, side = [], warm_up_side(bundle.manifest.sizes)
    for part in parts.values():
        size = part.plan.optimum if part.plan else Size(side, side)
        if size not in shapes:
            graphs = {component: of.onnx for (component, _), of in parts.items()}
            shapes[size] = warmup_shapes(graphs, size, bundle.manifest.style_dim)
        file = (_ONNX, part.onnx) if part.plan is None else (_PLAN, part.plan.data)
        models.append(ServerModel(part.model, _part_config(bundle, part, max_batch, shapes[size]), file))
    for target in bundle.manifest.targets:
        ensemble = f"{name}-to-{_word(target)}"
        models.append(ServerModel(ensemble, _ensemble_config(bundle, parts, target, ensemble, max_batch), None))
    return models


def _parts(bundle: Bundle, name: str, kind: str, precision: str) -> Iterator[_ServedPart]:
    for component in TRANSLATING:
        for domain in bundle.domains:
            graph = bundle.graph_data(component, domain, precision)
            if graph is not None:
                plan = find_plan(bundle, component, domain, graph) if kind == "tensorrt" else None
                model = f"{name}-{component.replace('_', '-')}-{_word(domain)}"
                yield _ServedPart(component, domain, model, tensors_of(graph.data, graph.name), graph.data, plan)


def _part_config(bundle: Bundle, part: _ServedPart, max_batch: int, shapes: Mapping[str, tuple[int, ...]]) -> str:
    backend = "onnxruntime" if part.plan is None else "tensorrt"
    texts = [
        _head(part.model, f"The {part.component.replace('_', ' ')} of {part.domain}."),
        f'backend: "{backend}"\n'
        f'default_model_filename: "{_ONNX if part.plan is None else _PLAN}"\n'
        f"max_batch_size: {max_batch if part.plan is None else min(max_batch, part.plan.max_batch)}\n",
        tensors("input", part.tensors.inputs),
        tensors("output", part.tensors.outputs),
        _BATCHES,
        _INSTANCES,
        _ACCELERATOR if part.plan is None else "",
        _warmup(part.tensors.inputs, shapes),
        "\n# What is served.\n",
        parameters(_facts(bundle) | {PART: f"{part.component}.{part.domain}"}),
    ]
    return "".join(texts)


def _warmup(inputs: tuple[TensorConfig, ...], shapes: Mapping[str, tuple[int, ...]]) -> str:
    """One request of zeros, of the size that frames had in training, before the model counts as ready."""
    lines = [
        f"  inputs {{ key: {quoted(of.name)} value {{ data_type: TYPE_{of.kind}"
        f" dims: [ {', '.join(map(str, shapes[of.name]))} ] zero_data: true }} }}\n"
        for of in inputs
    ]
    return '\nmodel_warmup [ {\n  name: "zeros"\n  batch_size: 1\n' + "".join(lines) + "} ]\n"


def _ensemble_config(
    bundle: Bundle, parts: Mapping[tuple[str, str], _ServedPart], target: str, name: str, max_batch: int
) -> str:
    steps = _steps(bundle, parts, target)
    batches = [max_batch, *(step.part.plan.max_batch for step in steps if step.part.plan)]
    frames = TensorConfig(served.FRAMES, "UINT8", (-1, -1, 3))
    styled = bundle.manifest.has_styles
    code = [TensorConfig(served.STYLE_CODE, "FP32", (bundle.manifest.style_dim,))] if styled else []
    style, sizes = bundle.manifest.styles[target], bundle.manifest.sizes
    facts = {
        MULTIPLE_OF: str(sizes.multiple_of),
        MINIMUM: str(sizes.minimum),
    }
    if styled:
        facts[STYLE_CODES] = json.dumps({MEAN: style.mean} | style.named)
    texts = [
        _head(name, f"Translates frames of {bundle.source_of(target)} to {target}."),
        f'platform: "ensemble"\nmax_batch_size: {min(batches)}\n',
        tensors("input", (frames, *code)),
        tensors("output", (TensorConfig(served.TRANSLATED, "UINT8", (-1, -1, 3)),)),
        "\nensemble_scheduling {\n",
        *(_step(step, steps) for step in steps),
        "}\n\n# What is served, and what a client needs to know:\n",
        f"# sizes in pixels{', and the codes of the styles' * styled}.\n",
        parameters(_facts(bundle) | facts),
    ]
    return "".join(texts)


def _steps(bundle: Bundle, parts: Mapping[tuple[str, str], _ServedPart], target: str) -> list[_EnsembleStep]:
    """The parts in their order."""
    mapping, mlp = parts.get(("mapping", target)), parts.get(("style_mlp", target))
    mapped = {} if mapping else {"mapped": "content"}
    return [
        _EnsembleStep(parts["content_encoder", bundle.source_of(target)], {}),
        *([_EnsembleStep(mlp, {"style": served.STYLE_CODE})] if mlp else []),
        *([_EnsembleStep(mapping, {})] if mapping else []),
        _EnsembleStep(parts["decoder", target], {"frames": served.TRANSLATED} | mapped),
    ]


def _step(step: _EnsembleStep, steps: Sequence[_EnsembleStep]) -> str:
    """A step of an ensemble. What no step takes is not passed on."""
    inputs = {step.name_of(one.name): one.name for one in step.part.tensors.inputs}
    outputs = {step.name_of(one.name): one.name for one in step.part.tensors.outputs}
    taken = {other.name_of(one.name) for other in steps for one in other.part.tensors.inputs} | {served.TRANSLATED}
    lines = [f"    input_map {{ key: {quoted(name)} value: {quoted(called)} }}\n" for called, name in inputs.items()]
    lines += [
        f"    output_map {{ key: {quoted(name)} value: {quoted(called)} }}\n"
        for called, name in outputs.items()
        if called in taken
    ]
    model = f"    model_name: {quoted(step.part.model)}\n    model_version: -1\n"
    return f"  step {{\n{model}{''.join(lines)}  }}\n"


def _head(name: str, what: str) -> str:
    return f"# Written by dsmap {__version__}. {what}\nname: {quoted(name)}\n"


def _facts(bundle: Bundle) -> dict[str, str]:
    return bundle_facts(bundle.manifest, (bundle.folder / MANIFEST).read_bytes().decode())


def _word(domain: str) -> str:
    """A domain as a part of a model's name, which is a folder's and a part of an address."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", domain)
