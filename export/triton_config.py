"""The `config.pbtxt` of a bundle that Triton's Python backend serves."""

import struct

from dsmap import __version__
from dsmap.export.triton_facts import bundle_facts, warm_up_side
from dsmap.export.triton_text import TensorConfig, parameters, tensors
from dsmap.runtime.bundle.manifest import Manifest
from dsmap.runtime.triton import interface as served

# Without max_queue_size: with it, the server (2.51) sometimes let everything wait for half a second.
_BATCHES = """
# Frames that wait are handed over together, those of one size with those of that size; none waits for others.
dynamic_batching {{ preferred_batch_size: [ {max_batch} ] }}
"""
_SEQUENCES = f"""
# A video is a sequence. Its frames come in order, the first and the last marked as such.
sequence_batching {{
  max_sequence_idle_microseconds: {served.SEQUENCE_IDLE_SECONDS * 1_000_000}
  oldest {{ max_candidate_sequences: {served.MAX_SEQUENCES} }}
}}
"""
_SAMPLE = """  {{
    name: "to domain {number}"
    batch_size: 1
    inputs {{ key: "{frames}" value {{ data_type: TYPE_UINT8 dims: [ {side}, {side}, 3 ] random_data: true }} }}
    inputs {{ key: "{domain}" value {{ data_type: TYPE_STRING dims: [ 1 ] input_data_file: "domain-{number}" }} }}
  }}"""


def model_config(manifest: Manifest, text: str, *, name: str, max_batch: int, stabilised: bool) -> str:
    """The text of the model `name`. `text`: that of bundle.json, whose `manifest` is.

    Its warm-up expects the names of the domains that it translates to as `warmup/domain-0`, `warmup/domain-1`: see
    `warm_up_files`.
    """
    kind = "Stabilizes videos, a sequence each." if stabilised else "Translates frames, each by itself."
    parts = [
        f'# Written by dsmap {__version__}. {kind}\nname: "{name}"\nbackend: "python"\nmax_batch_size: {max_batch}\n',
        tensors("input", _inputs(manifest)),
        tensors("output", _outputs(manifest)),
        _SEQUENCES if stabilised else _BATCHES.format(max_batch=max_batch),
        "\n# One instance on each GPU, or one on the CPU, which uses all cores.\n",
        "instance_group [ { count: 1 kind: KIND_AUTO } ]\n",
        _warm_up(manifest),
        "\n# Yours to change, as instance_group (dsmap export --overwrite keeps both): as the options of dsmap video;\n"
        "# max_megapixels is the largest frame that is taken, padded, and what is under way at a time.\n",
        parameters(
            {
                served.BACKEND: "auto",
                served.PRECISION: "auto",
                served.TRUST_ENGINES: "false",
                served.MAX_MEGAPIXELS: f"{served.DEFAULT_MAX_MEGAPIXELS:g}",
            }
        ),
        "\n# What is served: clients read it, and the model checks it.\n",
        parameters(
            bundle_facts(manifest, text) | {served.BUNDLE_MANIFEST: text, served.STABILISED: str(stabilised).lower()}
        ),
    ]
    return "".join(parts)


def _inputs(manifest: Manifest) -> list[TensorConfig]:
    """A model without styles has no inputs for them: the server refuses a request with one."""
    always = [
        TensorConfig(served.FRAMES, "UINT8", (-1, -1, 3)),
        TensorConfig(served.DOMAIN, "STRING", (1,)),
        TensorConfig(served.SOURCE, "STRING", (1,), optional=True),
    ]
    if not manifest.has_styles:
        return always
    return [
        *always,
        TensorConfig(served.STYLE, "STRING", (1,), optional=True),
        TensorConfig(served.STYLE_CODE, "FP32", (-1,), optional=True),
        TensorConfig(served.STYLE_IMAGE, "UINT8", (-1, -1, 3), optional=True),
        TensorConfig(served.STRENGTH, "FP32", (1,), optional=True),
    ]


def _outputs(manifest: Manifest) -> list[TensorConfig]:
    code = [TensorConfig(served.STYLE_CODE, "FP32", (manifest.style_dim,))] if manifest.has_styles else []
    return [TensorConfig(served.TRANSLATED, "UINT8", (-1, -1, 3)), *code]


def warm_up_files(manifest: Manifest) -> dict[str, bytes]:
    """The files of the folder `warmup`: the domains as Triton writes texts, each after its length."""
    names = [domain.encode() for domain in manifest.targets]
    return {f"domain-{number}": struct.pack("<I", len(name)) + name for number, name in enumerate(names)}


def _warm_up(manifest: Manifest) -> str:
    side = warm_up_side(manifest.sizes)
    samples = [
        _SAMPLE.format(number=number, side=side, frames=served.FRAMES, domain=served.DOMAIN)
        for number in range(len(manifest.targets))
    ]
    about = "\n# Before the model is ready, it translates a frame in each direction.\n"
    return f"{about}model_warmup [\n" + ",\n".join(samples) + "\n]\n"
