"""Bundles as models of Triton Inference Server: what is written, and what is left alone."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from commands import call
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from dsmap.errors import DsmapError, InputError
from dsmap.export import triton
from dsmap.export.triton import TritonRequest, write_triton_models
from dsmap.export.triton_text import quoted
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.tools import export


def write(bundle, repository, **options):
    return write_triton_models(TritonRequest(bundle=bundle, repository=repository, **options))


def config_of(folder):
    return text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), model_config_pb2.ModelConfig())


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def repository(tiny_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository") / "models"
    write(tiny_bundle, folder)
    return folder


@pytest.mark.parametrize("name", ["tiny", "tiny-stabilised"])
def test_the_configuration_is_what_triton_reads(repository, tiny_bundle, name):
    config = config_of(repository / name)
    assert (config.name, config.backend, config.max_batch_size) == (name, "python", 8)
    given = {
        tensor.name: (model_config_pb2.DataType.Name(tensor.data_type), list(tensor.dims), tensor.optional)
        for tensor in config.input
    }
    assert given == {
        "frames": ("TYPE_UINT8", [-1, -1, 3], False),
        "domain": ("TYPE_STRING", [1], False),
        "source": ("TYPE_STRING", [1], True),
        "style": ("TYPE_STRING", [1], True),
        "style_code": ("TYPE_FP32", [-1], True),
        "style_image": ("TYPE_UINT8", [-1, -1, 3], True),
        "strength": ("TYPE_FP32", [1], True),
    }
    outputs = {t.name: (model_config_pb2.DataType.Name(t.data_type), list(t.dims)) for t in config.output}
    assert outputs == {"translated": ("TYPE_UINT8", [-1, -1, 3]), "style_code": ("TYPE_FP32", [3])}
    assert [group.count for group in config.instance_group] == [1]
    text = (tiny_bundle / "bundle.json").read_text(encoding="utf-8")
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    assert parameters["dsmap_bundle"] == "tiny"
    assert parameters["domains"] == "summer,winter"
    assert parameters["dsmap_bundle_sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert json.loads(parameters["dsmap_manifest"]) == json.loads(text)
    assert (parameters["backend"], parameters["precision"]) == ("auto", "auto")


def test_frames_are_batched_and_videos_are_sequences(repository):
    frames, videos = config_of(repository / "tiny"), config_of(repository / "tiny-stabilised")
    assert list(frames.dynamic_batching.preferred_batch_size) == [8]
    assert frames.dynamic_batching.max_queue_delay_microseconds == 0
    assert videos.sequence_batching.HasField("oldest")
    assert videos.sequence_batching.max_sequence_idle_microseconds == 60_000_000


def test_the_warm_up_names_files_that_are_there(repository):
    for name in ("tiny", "tiny-stabilised"):
        samples = config_of(repository / name).model_warmup
        found = [(repository / name / "warmup" / s.inputs["domain"].input_data_file).read_bytes() for s in samples]
        assert found == [b"\x06\0\0\0summer", b"\x06\0\0\0winter"]
        assert [list(s.inputs["frames"].dims) for s in samples] == [[64, 64, 3]] * 2


def test_a_model_needs_nothing_outside_of_its_folder(repository, tiny_bundle):
    assert sorted(path.name for path in repository.iterdir()) == ["tiny", "tiny-stabilised"]
    for folder in repository.iterdir():
        assert files_of(Bundle.read(folder / "1" / "bundle").folder) == files_of(tiny_bundle)
        assert not [path for path in folder.rglob("*") if path.is_symlink()]
    assert not list(repository.parent.glob(".*"))  # nothing temporary stays


def test_only_the_bundles_own_documents_go_with_it(tiny_bundle, tmp_path):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (bundle / "README.md").write_text("mine")
    (tmp_path / "secret.txt").write_text("secret")
    tree = json.loads((bundle / "bundle.json").read_text())
    sha256 = hashlib.sha256(b"secret").hexdigest()
    tree["extras"].append({"path": "../secret.txt", "sha256": sha256, "bytes": 6})
    (bundle / "bundle.json").write_text(json.dumps(tree))
    write(bundle, tmp_path / "models")
    assert not (tmp_path / "models" / "tiny" / "1" / "bundle" / "README.md").exists()
    assert not list((tmp_path / "models").rglob("secret.txt"))
    write(bundle, tmp_path / "models", overwrite=True)


def test_bundles_stand_side_by_side(tiny_bundle, tmp_path):
    write(tiny_bundle, tmp_path / "models")
    before = files_of(tmp_path / "models")
    write(tiny_bundle, tmp_path / "models", name="other", max_batch=2)
    assert config_of(tmp_path / "models" / "other").max_batch_size == 2
    assert config_of(tmp_path / "models" / "other").name == "other"
    assert {name: data for name, data in files_of(tmp_path / "models").items() if "other" not in name} == before


def test_what_others_have_put_there_stays(tiny_bundle, tmp_path):
    foreign = tmp_path / "tiny-stabilised"
    foreign.mkdir()
    (foreign / "config.pbtxt").write_text('name: "tiny-stabilised"\nbackend: "onnxruntime"\n')
    for overwrite in (False, True):
        with pytest.raises(InputError, match="exists and is not a model that dsmap has written"):
            write(tiny_bundle, tmp_path, overwrite=overwrite)
    assert list(tmp_path.iterdir()) == [foreign]  # nor is the other one written alone


def test_models_are_replaced_only_when_asked_to(tiny_bundle, tmp_path):
    write(tiny_bundle, tmp_path)
    with pytest.raises(InputError, match=r"tiny exists\nPass --overwrite"):
        write(tiny_bundle, tmp_path)
    before = files_of(tmp_path)
    write(tiny_bundle, tmp_path, overwrite=True, max_batch=3)
    assert config_of(tmp_path / "tiny").max_batch_size == 3
    write(tiny_bundle, tmp_path, overwrite=True)
    assert files_of(tmp_path) == before


def test_what_an_administrator_has_set_is_kept(tiny_bundle, tmp_path):
    write(tiny_bundle, tmp_path)
    config = tmp_path / "tiny" / "config.pbtxt"
    text = config.read_text(encoding="utf-8")
    changed = text.replace('"16"', '"2.5"').replace(
        '"backend" value { string_value: "auto"', '"backend" value {\n string_value: "cpu"'
    )
    changed = changed.replace("{ count: 1 kind: KIND_AUTO }", "\n  { count: 2 kind: KIND_GPU gpus: [ 0, 1 ] }\n")
    config.write_text(changed, encoding="utf-8")
    said = []
    for max_batch in (4, 8):
        write_triton_models(
            TritonRequest(bundle=tiny_bundle, repository=tmp_path, overwrite=True, max_batch=max_batch),
            notify=said.append,
        )
        told = config_of(tmp_path / "tiny")
        assert told.max_batch_size == max_batch
        assert {name: told.parameters[name].string_value for name in ("max_megapixels", "backend", "precision")} == {
            "max_megapixels": "2.5",
            "backend": "cpu",
            "precision": "auto",
        }
        assert [(group.count, list(group.gpus)) for group in told.instance_group] == [(2, [0, 1])]
    assert said[0].endswith(" MB), with its own backend, max_megapixels, instance_group")
    assert said[1].endswith(" MB)")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("dynamic_batching {", "dynamic_batching { max_queue_delay_microseconds: 100"),
        ("max_batch_size: 8", "max_batch_size: 2"),
        ("# The checksum", "# We like 16 megapixels.\n# The checksum"),
        ('parameters { key: "precision"', '# parameters { key: "precision"'),
    ],
)
def test_other_changes_of_an_administrator_are_not_lost(tiny_bundle, tmp_path, ours, theirs):
    write(tiny_bundle, tmp_path)
    config = tmp_path / "tiny" / "config.pbtxt"
    config.write_text(config.read_text(encoding="utf-8").replace(ours, theirs), encoding="utf-8")
    before = files_of(tmp_path)
    with pytest.raises(InputError, match="was changed in more than --overwrite keeps"):
        write(tiny_bundle, tmp_path, overwrite=True)
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("file", ["notes.txt", "2/model.py", "warmup/mine.raw", "1/weights.bin", "1/bundle/mine.txt"])
def test_a_file_of_ones_own_in_a_model_is_not_lost(tiny_bundle, tmp_path, file):
    write(tiny_bundle, tmp_path)
    own = tmp_path / "tiny" / file
    own.parent.mkdir(exist_ok=True)
    own.write_text("mine")
    with pytest.raises(InputError, match=r"holds .* which is not part of the"):
        write(tiny_bundle, tmp_path, overwrite=True)
    assert own.read_text() == "mine"


@pytest.mark.parametrize("name", ["", "a/b", "..", "two words", "-x", "ü", "x" * 200])
def test_a_name_that_is_no_folders_is_refused(tiny_bundle, tmp_path, name):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    if name:
        with pytest.raises(InputError, match="Pass --name"):
            write(bundle, tmp_path / "models", name=name)
    tree = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps(tree | {"name": name or "two\u2009words"}))
    with pytest.raises(InputError, match="Pass --name"):
        write(bundle, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_damaged_bundle_is_not_served(tiny_bundle, tmp_path):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (bundle / "decoder.winter.onnx").write_bytes(b"no graph")
    with pytest.raises(InputError, match="has changed since it was exported"):
        write(bundle, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_repository_that_is_something_else_is_refused(tiny_bundle, tmp_path):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (tmp_path / "file").write_text("")
    write(bundle, tmp_path / "models")
    for repository, why in [
        (bundle, "is a bundle"),
        (bundle / "inside", "is in the bundle"),
        (tmp_path / "models" / "tiny", "is a model"),
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "x", "is a file"),
    ]:
        with pytest.raises(InputError, match=why):
            write(bundle, repository)


@pytest.mark.parametrize("number", [0, -3, 100_000])
@pytest.mark.parametrize("parts", [[], ["--triton-parts", "onnx"]])
def test_a_batch_that_no_server_takes_is_refused(tiny_bundle, tmp_path, number, parts):
    code, _, error = call(export.command, tiny_bundle, "--triton", tmp_path / "models", *parts, "--max-batch", number)
    assert code == 2
    assert error.startswith(f"error: --max-batch {number} is not a number of frames\n")
    assert not (tmp_path / "models").exists()


def test_a_full_disk_leaves_what_was_there(tiny_bundle, tmp_path, monkeypatch):
    write(tiny_bundle, tmp_path / "models")
    before = files_of(tmp_path)

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(triton.shutil, "copyfile", full)
    with pytest.raises(DsmapError, match=r"No space left on device\nFree disk space"):
        write(tiny_bundle, tmp_path / "models", overwrite=True)
    assert files_of(tmp_path) == before


def test_a_disk_that_is_full_at_the_second_model_leaves_none(tiny_bundle, tmp_path, monkeypatch):
    copy, models = triton.shutil.copyfile, []

    def fills_up(source, target):
        models.append(str(target).endswith("model.py"))
        if sum(models) == 2:
            raise OSError(28, "No space left on device")
        return copy(source, target)

    monkeypatch.setattr(triton.shutil, "copyfile", fills_up)
    with pytest.raises(DsmapError, match=r"tiny-stabilised: .*No space left on device"):
        write(tiny_bundle, tmp_path / "models")
    assert not files_of(tmp_path)


def test_texts_survive_the_text_format():
    text = 'a "quoted" \\ back\\slash,\nlines\tand\x07bells, ünïcode \U0001f328'
    message = text_format.Parse(f"name: {quoted(text)}", model_config_pb2.ModelConfig())
    assert message.name == text


def test_the_command_says_what_comes_next(tiny_bundle, tmp_path):
    code, out, _ = call(export.command, tiny_bundle, "--triton", tmp_path / "models", "--report", tmp_path / "r.json")
    assert code == 0
    assert out.splitlines()[-1] == f"next: tritonserver --model-repository {tmp_path / 'models'}"
    report = json.loads((tmp_path / "r.json").read_text())
    assert [Path(folder).name for folder in report["models"]] == ["tiny", "tiny-stabilised"]


@pytest.mark.parametrize("option", [["--fp16"], ["-o", "x"], ["--named-style", "winter:a=b.png"], ["--sizes", "64x64"]])
def test_options_of_exports_do_not_go_with_it(tiny_bundle, tmp_path, option):
    code, _, error = call(export.command, tiny_bundle, "--triton", tmp_path / "models", *option)
    assert code == 2
    assert error.startswith(f"error: {option[0]} does not go with --triton\n")
    assert not (tmp_path / "models").exists()
