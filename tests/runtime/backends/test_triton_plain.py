"""A model without styles and of one direction on a real Triton server: frames, videos, and what is refused."""

import numpy as np
import pytest
import tritonserver
from clips import make_clip, read
from commands import call

from dsmap.errors import DsmapError, InputError
from dsmap.export.triton import TritonRequest, write_triton_models
from dsmap.export.triton_parts import TritonPartsRequest, write_triton_parts
from dsmap.runtime import Translator
from dsmap.tools import video
from tests.plain_bundle import SOURCE, TARGET, write_plain_bundle


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_plain_bundle(tmp_path_factory.mktemp("bundle") / "plain")


@pytest.fixture(scope="module")
def server(plain, tmp_path_factory):
    if why := tritonserver.missing():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("triton")
    write_triton_models(TritonRequest(bundle=plain.folder, repository=folder / "models"))
    with tritonserver.TritonServer(folder / "models", folder / "log") as running:
        yield running


def test_frames_and_videos(server, tmp_path):
    remote, frame = f"grpc://{server.address}", np.random.default_rng(0).integers(0, 256, (20, 37, 3), np.uint8)
    with Translator.load("plain", domain=TARGET, remote=remote) as translator:
        assert np.array_equal(translator(frame), 255 - frame)
        batch = np.stack([frame, frame[::-1]])
        assert np.array_equal(translator(batch), 255 - batch)
        with pytest.raises(InputError, match="the model plain has no styles"):
            translator.set_style(3)
    clip = make_clip(tmp_path / "clip.mkv", frames=3)
    for options in ((), ("--stabilize",)):
        out = tmp_path / f"out{len(options)}.mkv"
        code, _, said = call(video, clip, "-o", out, "--model", "plain", "--domain", TARGET, "--remote", remote,
                             "--codec", "lossless", *options)  # fmt: skip
        assert code == 0, said
        assert len(read(out).frames) == 3


def test_what_is_refused(server, tmp_path):
    remote = f"grpc://{server.address}"
    with pytest.raises(InputError, match=f"does not translate to {SOURCE}"):
        Translator.load("plain", domain=SOURCE, remote=remote)
    clip = make_clip(tmp_path / "clip.mkv", frames=3)
    for option in ("--seed=3", "--strength=0.5"):
        code, _, said = call(video, clip, "-o", tmp_path / "out.mkv", "--model", "plain", "--domain", TARGET,
                             "--remote", remote, option)  # fmt: skip
        assert code == 2
        assert f"the model plain has no styles, which {option.partition('=')[0]} needs" in said
    with tritonserver.client_of(server) as client:  # of another kind
        for model, text, fact in (
            ("plain", SOURCE, f"the model plain does not translate to {SOURCE}\nSend {TARGET}."),
            ("plain-stabilised", "noon", f"has no domain 'noon'\nSend {TARGET}."),
        ):
            with pytest.raises(Exception, match=r"translate|domain") as refusal:
                ask(client, model, text)
            assert fact in str(refusal.value)
        with pytest.raises(Exception, match="style"):
            ask(client, "plain", TARGET, style="mean")
        got = ask(client, "plain", TARGET.upper())
    assert not isinstance(got, DsmapError)
    assert (got == 255).all()


def ask(client, model, target, **texts):
    import tritonclient.grpc as triton

    frames = triton.InferInput("frames", [1, 16, 16, 3], "UINT8")
    frames.set_data_from_numpy(np.zeros((1, 16, 16, 3), np.uint8))
    inputs = [frames]
    for name, text in {"domain": target, **texts}.items():
        inputs.append(triton.InferInput(name, [1, 1], "BYTES"))
        inputs[-1].set_data_from_numpy(np.array([[text.encode()]], np.object_))
    sequence = {"sequence_id": 7, "sequence_start": True, "sequence_end": True} if "stabilised" in model else {}
    return client.infer(model, inputs, **sequence).as_numpy("translated")


def test_parts(plain, tmp_path):
    write_triton_parts(TritonPartsRequest(bundle=plain.folder, repository=tmp_path / "models"))
    names = {path.name for path in (tmp_path / "models").iterdir()}
    assert names == {"plain-content-encoder-day", "plain-decoder-night", "plain-to-night"}
    text = (tmp_path / "models" / "plain-to-night" / "config.pbtxt").read_text()
    assert text.count("step {") == 2
    assert "style" not in text
