"""The graphs of a bundle as models of a Triton server that knows nothing of dsmap.

The server at hand has neither ONNX Runtime nor TensorRT. So the configurations are read with NVIDIA's own definitions
and compared with the graphs, the ensembles are run step by step with ONNX Runtime, and the server checks and runs them
with another backend in place of ONNX Runtime, which computes the same.
"""

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tritonserver
from commands import call
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from dsmap.errors import InputError
from dsmap.export.triton import TritonRequest, write_triton_models
from dsmap.export.triton_parts import TritonPartsRequest, write_triton_parts
from dsmap.runtime import Translator
from dsmap.runtime.bundle.bundle import Bundle, Components
from dsmap.runtime.engines.layer_statistics import LayerStatistics
from dsmap.runtime.engines.sidecars import engine_name, sidecar_path
from dsmap.runtime.engines.size_profile import SizeProfile
from dsmap.tools import export

KINDS = {"TYPE_FP32": onnx.TensorProto.FLOAT, "TYPE_UINT8": onnx.TensorProto.UINT8}
RUNS_ONNX = """
import onnxruntime
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def initialize(self, args):
        path = f"{args['model_repository']}/{args['model_version']}/model.onnx"
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.outputs = [value.name for value in self.session.get_outputs()]
    def execute(self, requests):
        return [self.answer({tensor.name(): tensor.as_numpy() for tensor in request.inputs()}) for request in requests]
    def answer(self, inputs):
        values = zip(self.outputs, self.session.run(self.outputs, inputs))
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in values])
"""


def read_config(folder: Path):
    return text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def run_model(repository: Path, name: str, inputs: dict) -> dict:
    """What a server does: the outputs of a model, of an ensemble those of its steps in their order."""
    config = read_config(repository / name)
    assert set(inputs) == {tensor.name for tensor in config.input}
    if config.platform != "ensemble":
        session = onnxruntime.InferenceSession(
            (repository / name / "1" / "model.onnx").read_bytes(), providers=["CPUExecutionProvider"]
        )
        names = [tensor.name for tensor in config.output]
        return dict(zip(names, session.run(names, inputs), strict=True))
    tensors = dict(inputs)
    for step in config.ensemble_scheduling.step:
        outputs = run_model(repository, step.model_name, {key: tensors[name] for key, name in step.input_map.items()})
        tensors |= {name: outputs[key] for key, name in step.output_map.items()}
    return {tensor.name: tensors[tensor.name] for tensor in config.output}


@pytest.fixture(scope="module")
def bundles(tiny_bundle, tmp_path_factory) -> dict[str, Path]:
    """A bundle, and one of a network without a mapping."""
    plain = shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("bundles") / "plain")
    told = json.loads((plain / "bundle.json").read_text())
    told["components"]["mapping"] = {}
    (plain / "bundle.json").write_text(json.dumps(told | {"name": "plain"}))
    return {"tiny": tiny_bundle, "plain": plain}


@pytest.fixture(scope="module")
def repository(bundles, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("parts") / "models"
    written = [
        path
        for bundle in bundles.values()
        for path in write_triton_parts(TritonPartsRequest(bundle=bundle, repository=folder)).folders
    ]
    assert {path.name for path in written} == {path.name for path in folder.iterdir()}
    return folder


def test_configurations_describe_the_graphs(repository, bundles):
    parts = [folder for folder in repository.iterdir() if (folder / "1" / "model.onnx").exists()]
    assert len(parts) == 10 + 8
    for folder in parts:
        config, graph = read_config(folder), onnx.load(folder / "1" / "model.onnx").graph
        assert (config.name, config.backend, config.default_model_filename) == (
            folder.name,
            "onnxruntime",
            "model.onnx",
        )
        assert (config.max_batch_size, config.HasField("dynamic_batching")) == (8, True)
        assert [group.count for group in config.instance_group] == [1]
        for told, values in ((config.input, graph.input), (config.output, graph.output)):
            assert [tensor.name for tensor in told] == [value.name for value in values]
            for tensor, value in zip(told, values, strict=True):
                batch, *dims = value.type.tensor_type.shape.dim
                assert batch.dim_param  # any number
                assert KINDS[model_config_pb2.DataType.Name(tensor.data_type)] == value.type.tensor_type.elem_type
                assert list(tensor.dims) == [dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims]
        component, _, domain = config.parameters["dsmap_part"].string_value.partition(".")
        bundle = bundles[config.parameters["dsmap_bundle"].string_value]
        graph_data = Bundle.read(bundle).graph_data(component, domain)
        assert (folder / "1" / "model.onnx").read_bytes() == graph_data.data


def test_the_warm_up_is_a_request_that_runs(repository):
    for folder in (folder for folder in repository.iterdir() if (folder / "1" / "model.onnx").exists()):
        (warm_up,) = read_config(folder).model_warmup
        assert warm_up.batch_size == 1
        types = {"TYPE_FP32": np.float32, "TYPE_UINT8": np.uint8}
        inputs = {
            name: np.zeros((1, *tensor.dims), types[model_config_pb2.DataType.Name(tensor.data_type)])
            for name, tensor in warm_up.inputs.items()
        }
        run_model(repository, folder.name, inputs)


@pytest.mark.parametrize(("name", "target"), [("tiny", "winter"), ("tiny", "summer"), ("plain", "winter")])
def test_the_ensembles_translate(repository, bundles, name, target):
    frames = np.random.default_rng(0).integers(0, 256, (2, 40, 64, 3), np.uint8)
    config = read_config(repository / f"{name}-to-{target}")
    told = {name: value.string_value for name, value in config.parameters.items()}
    assert all(side % int(told["frames_multiple_of"]) == 0 for side in frames.shape[1:3])
    with Translator.load(bundles[name], domain=target, backend="cpu", precision="fp32") as translator:
        assert np.allclose(json.loads(told["style_codes"])["mean"], translator.style)
        image = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
        code = run_model(repository, f"{name}-style-encoder-{target}", {"frames": image[None]})["style"]
        assert np.allclose(code[0], translator.find_style(image), atol=1e-5)
        codes = np.stack([translator.style, code[0]])
        got = run_model(repository, config.name, {"frames": frames, "style_code": codes})["translated"]
        expected = [translator.submit(frame, code)() for frame, code in zip(frames, codes, strict=True)]
    assert np.abs(got.astype(int) - expected).max() <= 1


def test_a_server_runs_the_ensembles(repository, bundles, tmp_path):
    if why := tritonserver.missing():
        pytest.skip(why)
    ensembles = {f"{name}-to-winter" for name in bundles}
    steps = {step.model_name for name in ensembles for step in read_config(repository / name).ensemble_scheduling.step}
    for name in ensembles | steps:
        folder = shutil.copytree(repository / name, tmp_path / "models" / name)
        text = (folder / "config.pbtxt").read_text()
        text = text.replace('"onnxruntime"', '"python"').replace('"model.onnx"', '"model.py"')
        (folder / "config.pbtxt").write_text(text)
        if name in steps:
            (folder / "1" / "model.py").write_text(RUNS_ONNX)
    frames = np.random.default_rng(2).integers(0, 256, (3, 32, 48, 3), np.uint8)
    with (
        tritonserver.TritonServer(tmp_path / "models", tmp_path / "log") as server,
        tritonserver.client_of(server) as client,
    ):
        for name, bundle in bundles.items():
            with Translator.load(bundle, domain="winter", backend="cpu", precision="fp32") as translator:
                inputs = _inputs(frames=frames, style_code=np.tile(translator.style, (3, 1)))
                got = client.infer(f"{name}-to-winter", inputs).as_numpy("translated")
                assert np.abs(got.astype(int) - translator(frames)).max() <= 1
                if name == "tiny":
                    frame = frames[0, :29, :45]
                    assert np.abs(documented_client(server, frame).astype(int) - translator(frame)).max() <= 1


def documented_client(server, frame):
    """What the client in the documentation makes of a frame."""
    page = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "summer-winter-to" in block]
    names = {"summer_rgb": frame}
    exec(code.replace("gpu-box:8001", server.address).replace("summer-winter-to", "tiny-to"), names)
    return names["winter_rgb"]


def _inputs(**tensors):
    from tritonclient.grpc import InferInput

    inputs = []
    for name, value in tensors.items():
        inputs.append(InferInput(name, list(value.shape), {"u": "UINT8", "f": "FP32"}[value.dtype.kind]))
        inputs[-1].set_data_from_numpy(value)
    return inputs


def test_beside_the_models_of_the_python_backend(tiny_bundle, tmp_path):
    """All fit into one repository; and only what dsmap has written is replaced."""
    folder = tmp_path / "models"
    write_triton_models(TritonRequest(bundle=tiny_bundle, repository=folder))
    arguments = (tiny_bundle, "--triton", folder, "--triton-parts", "onnx")
    code, out, errors = call(export, *arguments)
    assert (code, errors) == (0, "")
    assert re.search(r"wrote 12 models into .*models \(\d+\.\d MB\)", out)
    assert len(list(folder.iterdir())) == 14
    code, _, errors = call(export, *arguments)
    assert (code, "exists" in errors) == (2, True)
    assert call(export, *arguments, "--overwrite", "--max-batch", 2)[0] == 0
    assert read_config(folder / "tiny-to-winter").max_batch_size == 2
    (folder / "tiny-to-winter" / "1" / "mine.txt").write_text("mine")
    code, _, errors = call(export, *arguments, "--overwrite")
    assert (code, "mine.txt" in errors) == (2, True)


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        (["--triton-parts", "onnx"], "--triton-parts needs --triton"),
        (["--triton", "models", "--triton-parts", "onxx"], "--triton-parts onxx is not known"),
        (["--triton", "models", "--triton-parts", "onnx", "--int8"], "tiny has no int8 graphs; it has fp32"),
        (["--triton", "models", "--triton-parts", "onnx", "--int8", "--fp16"], "--fp16 and --int8 were both passed"),
        (["--triton", "models", "--fp16"], "--fp16 does not go with --triton"),
        (
            ["--triton", "models", "--triton-parts", "tensorrt"],
            "tiny has no TensorRT engine for content_encoder.summer",
        ),
    ],
)
def test_what_does_not_go(tiny_bundle, tmp_path, monkeypatch, options, fact):
    monkeypatch.chdir(tmp_path)
    code, _, errors = call(export, tiny_bundle, *options)
    assert code == 2
    assert fact in errors
    assert not list(tmp_path.iterdir())


def test_domains_whose_names_would_become_one(tiny_bundle, tmp_path):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    text = (bundle / "bundle.json").read_text()
    (bundle / "bundle.json").write_text(text.replace('"summer"', '"a b"').replace('"winter"', '"a+b"'))
    with pytest.raises(InputError, match=r"the domains a b and a\+b get one name"):
        write_triton_parts(TritonPartsRequest(bundle=bundle, repository=tmp_path / "models"))


def add_engines(bundle: Bundle, flavour: str, **changed: object) -> None:
    """Files in the place of engines, with sidecars as if they had been built for batches of up to 4."""
    (bundle.folder / "engines").mkdir(exist_ok=True)
    profile = SizeProfile.parse("64x48:128x96:256x192", max_batch=4)
    for component in Components.model_fields:
        for domain in bundle.domains:
            if (graph := bundle.graph_data(component, domain)) is None:
                continue
            data = f"{component} of {domain}".encode()
            path = bundle.folder / "engines" / engine_name(component, domain, "fp32", flavour, profile)
            path.write_bytes(data)
            key = {
                "onnx_sha256": graph.sha256,
                "flavour": flavour,
                "version": "11.4",
                "architectures": ["8.9"],
                "precision": "fp32",
                "profile": str(profile),
                "batch": 4,
            }
            layers = dict.fromkeys(LayerStatistics.__annotations__, 0)
            told = {"key": key | changed, "engine_sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
            told |= {"component": component, "domain": domain, "layers": layers, "build_seconds": 1.0}
            sidecar_path(path).write_text(json.dumps(told | {"dsmap_version": "0.1.0", "built_at": "2026-11-28"}))


def test_engines_become_plans(tiny_bundle, tmp_path):
    bundle = Bundle.read(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    request = TritonPartsRequest(bundle=bundle.folder, repository=tmp_path / "models", kind="tensorrt")
    add_engines(bundle, "rtx")  # which Triton does not run
    with pytest.raises(InputError, match="no TensorRT engine"):
        write_triton_parts(request)
    add_engines(bundle, "tensorrt", onnx_sha256="of another graph")
    with pytest.raises(InputError, match="no TensorRT engine"):
        write_triton_parts(request)
    add_engines(bundle, "tensorrt")
    write_triton_parts(request)
    folder = tmp_path / "models" / "tiny-decoder-winter"
    config = read_config(folder)
    assert (folder / "1" / "model.plan").read_bytes() == b"decoder of winter"
    assert (config.backend, config.default_model_filename, config.max_batch_size) == ("tensorrt", "model.plan", 4)
    warm_up = read_config(tmp_path / "models" / "tiny-content-encoder-summer").model_warmup[0]
    assert list(warm_up.inputs["frames"].dims) == [96, 128, 3]
    assert read_config(tmp_path / "models" / "tiny-to-winter").max_batch_size == 4
