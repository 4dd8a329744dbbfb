"""The backend that `auto` takes, by what runs and what does not."""

from types import SimpleNamespace

import pytest

from dsmap.errors import DsmapError, InputError
from dsmap.runtime.backends import registry
from dsmap.runtime.backends.base import BackendSettings

BUNDLE = SimpleNamespace(precisions=("fp32", "int8"), only_backend=None, manifest=SimpleNamespace(name="made up"))


@pytest.fixture
def backends(monkeypatch):
    """Puts stand-ins in the registry: those named run, the others raise; gives the names in the order of loading."""

    def install(*runs: str, **errors: Exception) -> list[str]:
        loaded: list[str] = []

        def loader(name: str):
            def make(*_arguments):
                loaded.append(name)
                if name in runs:
                    return SimpleNamespace(name=name, on_host=name in ("cpu", "openvino"), fault=None)
                raise errors.get(name.replace("-", "_"), DsmapError(f"{name} is missing", f"Install {name}."))

            return lambda: make

        monkeypatch.setattr(registry, "BACKENDS", {name: loader(name) for name in registry.BACKENDS})
        return loaded

    return install


def auto():
    return registry.load_backend("auto", BUNDLE, "winter")


@pytest.mark.parametrize(
    ("runs", "taken", "reason"),
    [
        (("tensorrt", "tensorrt-rtx", "cuda", "cpu", "openvino"), "tensorrt", "the first that runs here"),
        (("tensorrt-rtx", "cuda", "cpu"), "tensorrt-rtx", "tensorrt: tensorrt is missing"),
        (("cuda", "cpu"), "cuda", "tensorrt: tensorrt is missing; tensorrt-rtx: tensorrt-rtx is missing"),
    ],
)
def test_auto_takes_the_first_that_runs_and_says_why_not_those_before(backends, runs, taken, reason):
    backends(*runs)
    choice = auto()
    assert (choice.backend.name, choice.reason) == (taken, reason)


def test_on_a_cpu_auto_takes_onnx_runtime_wherever_it_is_and_loads_nothing_else(backends, monkeypatch):
    monkeypatch.setattr("platform.processor", lambda: "GenuineIntel")
    loaded = backends("cpu", *registry.BY_NAME_ONLY)
    assert [auto().backend.name for _ in range(3)] == ["cpu"] * 3
    assert set(loaded) == {"tensorrt", "tensorrt-rtx", "cuda", "cpu"}


@pytest.mark.parametrize("name", ["openvino", "torch", *registry.UNTESTED])
def test_some_are_taken_by_name_alone(backends, name):
    backends(name)
    choice = registry.load_backend(name, BUNDLE, "winter")
    assert (choice.backend.name, choice.reason) == (name, "as asked")
    with pytest.raises(DsmapError, match=r"no backend runs here: tensorrt: .* cpu: cpu is missing") as caught:
        auto()
    assert caught.value.advice == "Install cpu."


def test_the_same_reason_is_given_once(backends):
    no_gpu = DsmapError("no GPU", "Buy one.")
    backends("cpu", tensorrt=no_gpu, tensorrt_rtx=no_gpu, cuda=DsmapError("no CUDA", "Install it."))
    assert auto().reason == "tensorrt, tensorrt-rtx: no GPU; cuda: no CUDA"


def test_auto_does_not_take_what_gives_wrong_frames(backends, monkeypatch, caplog):
    closed = []
    wrong = SimpleNamespace(name="cuda", on_host=False, fault="its frames are wrong", close=lambda: closed.append(1))
    backends("cpu")
    registry.BACKENDS["cuda"] = lambda: lambda *_arguments: wrong
    assert auto().reason.endswith("cuda: its frames are wrong")
    assert auto().backend.name == "cpu"
    assert closed == [1, 1]
    assert caplog.messages == []
    assert registry.load_backend("cuda", BUNDLE, "winter").backend is wrong
    assert caplog.messages == ["cuda: its frames are wrong. Use --backend cpu, and please report what this line says."]


def test_a_damaged_bundle_ends_the_search(backends):
    loaded = backends("cpu", cuda=InputError("the bundle is damaged", "Export it again."))
    with pytest.raises(InputError, match="the bundle is damaged"):
        auto()
    assert loaded[-1] == "cuda"


def test_a_precision_that_the_bundle_lacks_is_refused_before_anything_is_loaded(backends):
    loaded = backends("cpu")
    with pytest.raises(InputError, match="the model made up has no fp16 graphs; it has fp32, int8") as caught:
        registry.load_backend("auto", BUNDLE, "winter", BackendSettings(precision="fp16"))
    assert caught.value.advice == "Use --precision fp32 or int8, or export the model with --fp16."
    with pytest.raises(InputError, match="no bf16 graphs") as caught:
        registry.load_backend("auto", BUNDLE, "winter", BackendSettings(precision="bf16"))
    assert caught.value.advice == "Use --precision fp32 or int8."  # no export makes bf16
    assert loaded == []
