"""Bundles that somebody made to do harm: each is one clear error, at once, and what was checked is what runs."""

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hostile import make_small_bundle, small_graph
from onnx import TensorProto, helper, numpy_helper

from dsmap.errors import InputError
from dsmap.runtime.backends.onnxruntime_session import import_onnxruntime, open_session, session_options
from dsmap.runtime.bundle.bundle import MANIFEST, Bundle, GraphData
from dsmap.runtime.bundle.bundled import find_model
from dsmap.runtime.bundle.graphs import OPERATORS, check_graph
from dsmap.runtime.bundle.manifest import MAX_MANIFEST_BYTES


@pytest.fixture
def bundle(tmp_path) -> Path:
    return make_small_bundle(tmp_path / "bundle")


def refused(folder: Path) -> InputError:
    """The one error, in seconds of work; safe to print."""
    began = time.process_time()
    with pytest.raises(InputError) as caught:
        Bundle.read(folder)
    assert time.process_time() - began < 5
    assert caught.value.advice
    assert len(caught.value.fact) < 2000
    assert caught.value.fact.isprintable()
    return caught.value


def change(folder: Path, where: str, to: object) -> None:
    """Sets a value of bundle.json, as JSON text where it is bytes."""
    text = (folder / MANIFEST).read_text()
    tree = json.loads(text)
    part = tree
    *above, last = where.split(".")
    for key in above:
        part = part[key]
    part[last] = "RAW" if isinstance(to, bytes) else to
    text = json.dumps(tree)
    (folder / MANIFEST).write_text(text.replace('"RAW"', to.decode()) if isinstance(to, bytes) else text)


def test_the_small_bundle_is_sound(bundle):
    Bundle.read(bundle)


# bundle.json itself

DEEP = 100_000
TEXTS = {
    "nested lists": ("[" * DEEP + "]" * DEEP, "nested too deeply"),
    "nested objects": ('{"a":' * DEEP + "1" + "}" * DEEP, "nested too deeply"),
    "open lists": ("[" * DEEP, "nested too deeply"),
    "nested within": ('{"format_version": 2, "provenance": ' + "[" * 60 + "]" * 60 + "}", "nested too deeply"),
    "a list": ("[1, 2]", "no format_version"),
    "a number": ("7", "no format_version"),
    "a text": ('"bundle"', "no format_version"),
    "null": ("null", "no format_version"),
    "nothing": ("", "not valid JSON"),
    "half": ('{"format_version": 2,', "not valid JSON"),
    "two documents": ("{} {}", "not valid JSON"),
    "no UTF-8": (b"\xff\xfe\x00", "not valid JSON"),
    "a mark in front": ("\ufeff{}", "not valid JSON"),
    "doubled keys": ('{"format_version": 2, "format_version": 1}', "the key 'format_version' occurs twice"),
    "an escape in a doubled key": ('{"\\u001b[31m": 2, "\\u001b[31m": 1}', "[31m' occurs twice"),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_texts_that_are_no_manifest(bundle, kind):
    text, fact = TEXTS[kind]
    (bundle / MANIFEST).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert fact in refused(bundle).fact


VALUES = {
    "4000 digits": ("sizes.multiple_of", b"9" * 4000, "4000 digits"),
    "5000 digits elsewhere": ("provenance.step", b"9" * 5000, "5000 digits"),
    "21 digits": ("architecture.dim", b"9" * 21, "21 digits"),
    "NaN anywhere": ("verification.psnr", b"NaN", "verification.psnr: nan is not a finite number"),
    "-Infinity": ("provenance.loss", b"-Infinity", "provenance.loss"),
    "infinity by size": ("provenance.loss", b"1e999", "provenance.loss: inf is not a finite number"),
    "a huge minimum": ("sizes.style_minimum", 10**9, "sizes.style_minimum"),
    "a huge multiple": ("sizes.multiple_of", 10**6, "sizes.multiple_of"),
    "a huge side": ("sizes.minimum", 10**6, "sizes.minimum"),
    "a huge training": ("sizes.trained_at", 10**9, "sizes.trained_at"),
    "a negative side": ("sizes.minimum", -8, "sizes.minimum"),
    "true as a side": ("sizes.minimum", True, "sizes.minimum"),
    "text as a side": ("sizes.minimum", "16", "sizes.minimum"),
    "a fraction as a side": ("sizes.minimum", 16.5, "sizes.minimum"),
    "sizes as a list": ("sizes", [8, 16], "sizes"),
    "a huge style": ("style_dim", 10**9, "style_dim"),
    "a short style": ("styles.b.mean", [0.0], "does not have 2 numbers"),
    "a long style": ("styles.a.std", [1.0] * 9000, "styles.a.std"),
    "text in a style": ("styles.a.mean", ["0", "1"], "styles.a.mean.0"),
    "a huge number in a style": ("styles.a.mean", [1e300, 0.0], "styles.a.mean.0"),
    "a short named style": ("styles.b.named", {"snow": [1.0]}, "the style snow of b has 1 numbers"),
    "a bad name of a style": ("styles.b.named", {"../snow": [1.0, 1.0]}, "is not a valid style name"),
    "a long name of a style": ("styles.b.named", {"s" * 9000: [1.0, 1.0]}, "is not a valid style name"),
    "styles as null": ("styles", None, "styles"),
    "a style as a list": ("styles.a", [1], "styles.a"),
    "one domain": ("domains", ["a"], "domains"),
    "domains as an object": ("domains", {"a": 1}, "domains"),
    "a long domain": ("domains", ["a", "b" * 10**6], "domains.1"),
    "an escape in a domain": ("domains", ["a", "b\x1b[2Kb"], "domains.1"),
    "a line in the name": ("name", "small\nerror: all is lost", "name"),
    "a huge name": ("name", "n" * 10**6, "name"),
    "a number as the name": ("name", 5, "name"),
    "a lone surrogate": ("card", b'"\\ud800"', "card: it is not valid UTF-8 text"),
    "a surrogate as a key": ("provenance", b'{"\\udfff": 1}', "the key is not valid UTF-8 text"),
    "a NUL in a path": ("components.decoder.b.path", "de\0coder", "components.decoder.b.path"),
    "an escape in a path": ("components.decoder.b.path", "de\x1b]0;coder", "components.decoder.b.path"),
    "5000 letters": ("components.decoder.b.path", "d" * 5000, "components.decoder.b.path"),
    "a name that is too long for a file": ("components.decoder.b.path", "ä" * 199, "lacks"),
    "the folder itself": ("components.decoder.b.path", ".", "which is not a file"),
    "nothing as a path": ("components.decoder.b.path", "", "components.decoder.b.path"),
    "a path as a list": ("components.decoder.b.path", ["x"], "components.decoder.b.path"),
    "a path outside": ("components.decoder.b.path", "../x.onnx", "leaves the bundle's folder"),
    "a long hash": ("components.decoder.b.sha256", "0" * 10**6, "components.decoder.b.sha256"),
    "negative bytes": ("components.decoder.b.bytes", -1, "components.decoder.b.bytes"),
    "too many bytes": ("components.decoder.b.bytes", 2**40, "components.decoder.b.bytes"),
    "fewer bytes": ("components.decoder.b.bytes", 12, "bytes, expected at most 12"),
    "more bytes": ("components.decoder.b.bytes", 99_999, "bytes, expected 99999"),
    "a file in place of another": ("components.decoder.b.path", "bundle.json", "bundle.json"),
    "many precisions": ("variants", {f"p{i}": {} for i in range(99)}, "variants"),
    "many files": ("components.decoder", {f"d{i}": {} for i in range(99)}, "components.decoder"),
    "files as a list": ("components.decoder", [], "components.decoder"),
    "version by a huge number": ("format_version", 10**19, "reads format 2"),
    "version as a fraction": ("format_version", 2.0, "no format_version"),
    "an escape in a key": ("styles.a.named", {"\x1b[31mred": [1.0]}, "is not a valid style name"),
}


@pytest.mark.parametrize("kind", VALUES)
def test_values_that_are_out_of_bounds(bundle, kind):
    where, value, fact = VALUES[kind]
    change(bundle, where, value)
    assert fact in refused(bundle).fact


def test_more_bytes_than_any_bundle_has(bundle):
    tree = json.loads((bundle / MANIFEST).read_text())
    for files in tree["components"].values():
        for file in files.values():
            file["bytes"] = (1 << 31) - 1
    (bundle / MANIFEST).write_text(json.dumps(tree))
    assert "bytes of files, expected at most" in refused(bundle).fact


def test_what_bundle_json_may_be(bundle, tmp_path):
    """A file of bounded length, and nothing that makes us wait: tried in a process that is ended after some seconds."""
    path = bundle / MANIFEST
    good = path.read_bytes()
    path.unlink()
    os.mkfifo(path)
    assert "pipe or a device" in refused(bundle).fact
    for target in ("/dev/zero", "/dev/stdin", str(tmp_path)):
        path.unlink()
        path.symlink_to(target)
        assert "cannot read the manifest" in refused(bundle).fact
    path.unlink()
    path.symlink_to(MANIFEST)  # to itself
    assert "cannot read the manifest" in refused(bundle).fact
    path.unlink()
    with path.open("wb") as file:  # sparse
        file.truncate(1 << 40)
    assert f"expected at most {MAX_MANIFEST_BYTES}" in refused(bundle).fact
    path.unlink()
    path.mkdir()
    assert "it is a folder" in refused(bundle).fact
    path.rmdir()
    path.write_bytes(good)
    Bundle.read(bundle)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "/dev/null", "/dev/zero"])
def test_names_that_no_bundle_has(name):
    with pytest.raises(InputError):
        Bundle.read(find_model(name))


def test_graphs_that_are_no_files(bundle, tmp_path):
    path = bundle / "decoder.b.onnx"
    data = path.read_bytes()
    path.unlink()
    os.mkfifo(path)
    assert "not a file" in refused(bundle).fact
    path.unlink()
    path.symlink_to(path.name)
    assert "names 'decoder.b.onnx'" in refused(bundle).fact
    path.unlink()
    path.symlink_to("/dev/zero")
    assert "leaves the bundle's folder" in refused(bundle).fact
    path.unlink()
    (tmp_path / "outside.onnx").write_bytes(data)
    path.symlink_to(tmp_path / "outside.onnx")
    assert "leaves the bundle's folder" in refused(bundle).fact
    path.unlink()
    path.mkdir()
    assert "not a file" in refused(bundle).fact
    path.rmdir()
    (bundle / "real.onnx").write_bytes(data)
    path.symlink_to("real.onnx")
    Bundle.read(bundle)


# The graphs


def tensor(**changed) -> onnx.TensorProto:
    made = onnx.TensorProto(name="w", data_type=1, dims=[2, 150], raw_data=bytes(1200))
    for name, value in changed.items():
        made.ClearField(name)
        getattr(made, name).extend(value) if isinstance(value, list) else setattr(made, name, value)
    return made


def with_weight(weight: onnx.TensorProto) -> onnx.ModelProto:
    model = small_graph()
    del model.graph.initializer[:]
    model.graph.initializer.append(weight)
    return model


def located() -> onnx.TensorProto:
    """Weights that are there, and a file beside."""
    weight = tensor()
    weight.external_data.add(key="location", value="weights.bin")
    return weight


def with_node(*arguments, **attributes) -> onnx.ModelProto:
    model = small_graph()
    model.graph.node.append(helper.make_node(*arguments, **attributes))
    return model


def external(location: str) -> onnx.TensorProto:
    weight = tensor(raw_data=b"", data_location=1)
    weight.external_data.add(key="location", value=location)
    return weight


def inner_graph(weight: onnx.TensorProto | None = None) -> onnx.GraphProto:
    out = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    node = helper.make_node("Identity", ["w"], ["z"])
    return helper.make_graph([node], "inner", [], [out], [weight] if weight is not None else [])


def functions() -> onnx.ModelProto:
    model = small_graph()
    model.functions.append(
        helper.make_function("", "Add", ["a", "b"], ["c"], [helper.make_node("Mul", ["a", "b"], ["c"])],
                             [helper.make_opsetid("", 20)])
    )  # fmt: skip
    return model


def training() -> onnx.ModelProto:
    model = small_graph()
    model.training_info.add().algorithm.CopyFrom(inner_graph(external("weights.bin")))
    return model


def sparse() -> onnx.ModelProto:
    model = small_graph()
    values, indices = numpy_helper.from_array(np.ones(1, np.float32), "s"), numpy_helper.from_array(np.zeros(1, int))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [1 << 40]))
    return model


def foreign() -> onnx.ModelProto:
    model = with_node("Evil", ["x"], ["z"], domain="com.example")
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    return model


GRAPHS = {
    "external data": (lambda: with_weight(external("weights.bin")), "weights in another file"),
    "external data by an absolute path": (lambda: with_weight(external("/etc/passwd")), "weights in another file"),
    "external data in a constant": (lambda: with_node("Constant", [], ["c"], value=external("w")), "another file"),
    "external data in a branch": (
        lambda: with_node("If", ["x"], ["z"], then_branch=inner_graph(external("w")), else_branch=inner_graph()),
        "has a subgraph",
    ),
    "a place, and no file": (lambda: with_weight(tensor(data_location=1)), "weights in another file"),
    "a file, and no place": (lambda: with_weight(located()), "weights in another file"),
    "a loop": (lambda: with_node("Loop", ["", ""], ["z"], body=inner_graph()), "has a subgraph"),
    "subgraphs": (lambda: with_node("Add", ["x", "x"], ["z"], many=[inner_graph(), inner_graph()]), "has subgraphs"),
    "functions": (functions, "has functions"),
    "training": (training, "has a training"),
    "sparse weights": (sparse, "has sparse weights"),
    "an operator of another domain": (foreign, "of the domain 'com.example'"),
    "an operator of ONNX Runtime's": (
        lambda: with_node("Gelu", ["x"], ["z"], domain="com.microsoft"), "'Gelu' of the domain 'com.microsoft'"),
    "an unknown operator": (lambda: with_node("Evil", ["x"], ["z"]), "the operator 'Evil'"),
    "an operator that makes memory": (lambda: with_node("ConstantOfShape", ["s"], ["z"]), "'ConstantOfShape'"),
    "an operator with an escape": (lambda: with_node("\x1b[31m", ["x"], ["z"]), "the operator"),
    "more declared than there": (lambda: with_weight(tensor(dims=[1 << 40])), "declares 1099511627776 numbers"),
    "more declared than fits": (lambda: with_weight(tensor(dims=[1 << 62, 1 << 62])), "declares"),
    "a negative side": (lambda: with_weight(tensor(dims=[-1])), "declares"),
    "less declared than there": (lambda: with_weight(tensor(dims=[1])), "declares 1 numbers as 'w' and holds 300"),
    "an unknown type": (lambda: with_weight(tensor(data_type=99)), "unknown type"),
    "text as weights": (lambda: with_weight(helper.make_tensor("w", TensorProto.STRING, [1], [b"x"])), "unknown form"),
    "a segment": (lambda: with_weight(onnx.TensorProto(
        name="w", data_type=1, segment=onnx.TensorProto.Segment(begin=0, end=1 << 40))), "unknown form"),
    "no graph": (lambda: onnx.ModelProto(ir_version=10, producer_name="nobody"), "no graph"),
    "many operators": (lambda: many_nodes(), "operators, expected at most"),
}  # fmt: skip


def many_nodes() -> onnx.ModelProto:
    model = small_graph()
    model.graph.node.extend([model.graph.node[0]] * 20_001)
    return model


@pytest.mark.parametrize("kind", GRAPHS)
def test_graphs_that_hold_something_else(kind):
    make, fact = GRAPHS[kind]
    with pytest.raises(InputError) as caught:
        check_graph(make().SerializeToString(), "decoder.b.onnx")
    assert fact in caught.value.fact
    assert caught.value.fact.isprintable()


def field(number: int, data: bytes) -> bytes:
    """A field with a length, in the wire format; a length of one or two bytes."""
    assert len(data) < 1 << 14
    return bytes([number << 3 | 2, len(data) & 0x7F | 0x80, len(data) >> 7]) + data


def test_bytes_that_readers_understand_differently():
    """Merged, doubled, packed and unknown fields: what one reader passes over another may follow."""
    sound = small_graph().SerializeToString()
    check_graph(sound, "g")
    evil = with_node("Evil", ["x"], ["z"]).graph
    second = field(7, evil.SerializeToString())
    weight = external("weights.bin").SerializeToString()
    for data in (
        sound + second,  # protobuf merges two graphs
        second + sound,
        sound + field(7, field(5, weight)),
        sound + b"\x38\x01",  # field 7 as a number
        sound + b"\xfa\x07\x01x",  # an unknown field
        sound + b"\x3b\x3c",  # a group
        sound[:-1],
        sound + b"\x80",
        sound + b"\x00\x00",
        b"\x08\x0a\x12\x04ORTM" + sound[2:],  # also ONNX Runtime's own format
        b"\x1c\x00\x00\x00TFL3" + bytes(100),
        b"",
        b"PK\x03\x04" * 100,
        b"<?xml version='1.0'?><net/>",
        bytes(4096),
        b"\xff" * 4096,
    ):
        with pytest.raises(InputError):
            check_graph(data, "g")


def test_every_damaged_byte_is_an_error_of_ours_or_harmless():
    sound = small_graph().SerializeToString()
    rng = np.random.default_rng(0)
    for _ in range(3000):
        data = bytearray(sound)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            data[place] = rng.integers(0, 256)
        with suppress(InputError):
            check_graph(bytes(data[: rng.integers(1, len(data) + 1)]), "g")


def test_weights_in_every_way_of_writing_them():
    """As bytes, as numbers, packed, in half, and the empty one."""
    for array in (np.ones((3, 5), np.float32), np.ones(3, np.float16), np.full(4, -7), np.ones(2, bool),
                  np.zeros((0, 4), np.float32), np.ones((), np.float64), np.full(9, 200, np.uint8)):  # fmt: skip
        check_graph(with_weight(numpy_helper.from_array(array, "w")).SerializeToString(), "g")
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        typed = helper.make_tensor("w", kind, array.shape, array.flatten().tolist())
        check_graph(with_weight(typed).SerializeToString(), "g")


def test_the_bundled_models_pass():
    Bundle.read(find_model("summer-winter"))


# What runs is what was checked


def only_fp32(folder: Path) -> Path:
    """The bundled model, as small as it gets."""
    source = find_model("summer-winter")
    folder.mkdir()
    tree = json.loads((source / MANIFEST).read_text())
    tree["variants"] = {}
    for part in tree["components"].values():
        for file in part.values():
            shutil.copy(source / file["path"], folder)
    (folder / MANIFEST).write_text(json.dumps(tree))
    return folder


def test_a_file_that_changes_after_its_check_is_not_what_runs(tmp_path, monkeypatch):
    """Each file is overwritten as soon as it has been checked: the sessions have the bytes that were checked."""
    from dsmap.runtime import Translator

    folder = only_fp32(tmp_path / "model")
    frame = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    expected = Translator.load(folder, domain="winter", backend="cpu", threads=1)(frame)
    real, overwritten = Bundle.graph_data, []

    def graph_data(bundle: Bundle, component: str, domain: str, precision: str) -> GraphData | None:
        graph = real(bundle, component, domain, precision)
        path = bundle.graph(component, domain, precision)
        path.write_bytes(b"something else")
        overwritten.append(path)
        return graph

    monkeypatch.setattr(Bundle, "graph_data", graph_data)
    translator = Translator.load(folder, domain="winter", backend="cpu", threads=1)
    assert len(overwritten) == 4
    np.testing.assert_array_equal(translator(frame), expected)
    monkeypatch.undo()
    (folder / "style_encoder.winter.onnx").write_bytes(b"something else")
    with pytest.raises(InputError, match="has changed since it was exported"):  # read, and checked, when it is wanted
        translator.set_style(frame)


def test_a_translator_checks_what_it_runs_and_that_the_rest_is_there(tmp_path):
    from dsmap.runtime import Translator

    folder = only_fp32(tmp_path / "model")
    frame = np.zeros((32, 32, 3), np.uint8)
    runs, other = folder / "decoder.winter.onnx", folder / "decoder.summer.onnx"
    sound = runs.read_bytes()
    runs.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    with pytest.raises(InputError, match=r"decoder\.winter\.onnx has changed since .* SHA-256"):
        Translator.load(folder, domain="winter", backend="cpu", threads=1)
    runs.write_bytes(sound)
    damaged = bytearray(other.read_bytes())
    damaged[-1] ^= 1
    other.write_bytes(damaged)
    assert Translator.load(folder, domain="winter", backend="cpu", threads=1)(frame).shape == frame.shape
    assert "SHA-256" in refused(folder).fact
    for change, fact in ((lambda: other.write_bytes(damaged[:-1]), "has changed since"), (other.unlink, "lacks it")):
        change()
        with pytest.raises(InputError, match=fact):
            Translator.load(folder, domain="winter", backend="cpu", threads=1)


def test_sessions_take_bytes_alone(tmp_path, monkeypatch):
    """No weights from the working directory either, which is where ONNX Runtime looks for those of bytes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.bin").write_bytes(bytes(1200))
    data = with_weight(external("weights.bin")).SerializeToString()
    ort = import_onnxruntime()
    session = open_session(ort, GraphData(small_graph().SerializeToString(), "", "fp32", "g"), session_options(ort),
                           ["CPUExecutionProvider"])  # fmt: skip
    assert session.run(None, {"x": np.ones((1, 300), np.float32)})[0][0, 299] == 300
    folder = make_small_bundle(tmp_path / "bundle", data)
    assert "onnx has weights in another file" in refused(folder).fact


@pytest.mark.parametrize("backend", ["openvino", "torch"])
def test_other_backends_take_the_checked_bytes(tmp_path, backend):
    pytest.importorskip(backend)
    from dsmap.runtime import Translator

    folder = only_fp32(tmp_path / "model")
    frame = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    ours = Translator.load(folder, domain="winter", backend=backend, threads=1)
    theirs = Translator.load(folder, domain="winter", backend="cpu", threads=1)
    assert np.abs(ours(frame).astype(int) - theirs(frame)).max() <= 1


def test_large_bundles_are_not_kept_in_memory(bundle, monkeypatch):
    one = (bundle / "decoder.b.onnx").stat().st_size
    monkeypatch.setattr("dsmap.runtime.bundle.bundle.MAX_HELD_BYTES", one)
    read = Bundle.read(bundle)
    assert sum(len(data) for data in read._held.values()) <= one
    assert read.graph_data("decoder", "b").data == (bundle / "decoder.b.onnx").read_bytes()
    read.release()
    assert read.graph_data("decoder", "b").data == (bundle / "decoder.b.onnx").read_bytes()


def test_a_graph_larger_than_the_memory_is_not_read(bundle, monkeypatch):
    monkeypatch.setattr("dsmap.runtime.bundle.bundle.available_bytes", lambda: 1000)
    monkeypatch.setattr("dsmap.runtime.bundle.bundle._LARGE_BYTES", 100)
    assert "of memory are available" in refused(bundle).fact


@pytest.mark.parametrize("command", ["video", "bench"])
def test_commands_end_with_two_lines(bundle, tmp_path, command):
    """Exit 2, fact and advice, no traceback: for a FIFO and for external data."""
    from PIL import Image

    Image.new("RGB", (32, 32)).save(tmp_path / "in.png")
    arguments = {
        "video": ["tools.video", tmp_path / "in.png", "--model", bundle, "--domain", "b", "-o", tmp_path / "out.png"],
        "bench": ["tools.bench", "model", bundle],
    }[command]
    data = with_weight(external("weights.bin")).SerializeToString()
    shutil.rmtree(bundle)
    make_small_bundle(bundle, data)
    for fact in ("weights in another file", "pipe or a device"):
        done = subprocess.run(
            [sys.executable, "-m", f"dsmap.{arguments[0]}", *map(str, arguments[1:])],
            capture_output=True, text=True, timeout=180, cwd=tmp_path,
        )  # fmt: skip
        lines = done.stderr.strip().splitlines()
        assert done.returncode == 2, done.stderr
        assert fact in lines[-2]
        assert "Traceback" not in done.stderr
        (bundle / MANIFEST).unlink()
        os.mkfifo(bundle / MANIFEST)


def test_operators_are_sorted_and_known():
    assert all(onnx.defs.has(operator) for operator in OPERATORS)
    control = {"If", "Loop", "Scan", "ConstantOfShape", "Expand", "Tile", "Range", "SequenceMap", "StringConcat"}
    assert not OPERATORS & control
