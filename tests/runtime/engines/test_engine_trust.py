"""Engines are code: which are loaded, from which folders, and what is told where they are not. Built for real."""

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hostile import make_small_bundle

from dsmap.common import cache_folder
from dsmap.errors import DsmapError, InputError
from dsmap.export.engines import EngineOptions, build_engines
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.cuda.base import OutOfMemoryError
from dsmap.runtime.engines import store as store_module
from dsmap.runtime.engines.cache import make_cache_folder
from dsmap.runtime.engines.lookup import check_engine, trust_fault
from dsmap.runtime.engines.sidecars import read_sidecar, sidecar_path
from dsmap.runtime.engines.size_profile import Size, SizeProfile
from dsmap.runtime.engines.store import EngineStore
from dsmap.runtime.engines.tensorrt_api import DEFAULT_ARCHITECTURES, Validity, load_trt
from dsmap.runtime.engines.trust import remember_engine, was_built_here

pytest.importorskip("tensorrt_rtx")
posix = pytest.mark.skipif(not hasattr(os, "getuid"), reason="owners and modes")
SIZE = Size(32, 32)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DSMAP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def rtx():
    return load_trt("rtx")


@pytest.fixture(scope="module")
def exported_engines(rtx, tmp_path_factory) -> tuple[Path, Path]:
    """A bundle with engines, and the cache of the user who built them."""
    folder = tmp_path_factory.mktemp("theirs")
    bundle = make_small_bundle(folder / "bundle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSMAP_CACHE", str(folder / "cache"))
        built = build_engines(Bundle.read(bundle), options(rtx), lambda line: None)
    assert len(built) == 10
    return bundle, folder / "cache"


def options(rtx) -> EngineOptions:
    return EngineOptions(rtx, DEFAULT_ARCHITECTURES, SizeProfile.parse("16x16:32x32:64x64"))


@pytest.fixture
def bundle(exported_engines, tmp_path) -> Bundle:
    """As it was downloaded."""
    return Bundle.read(Path(shutil.copytree(exported_engines[0], tmp_path / "bundle")))


def loaded(data: bytes, title: str, profile: SizeProfile) -> str:
    return hashlib.sha256(data).hexdigest()


def open_mapping(bundle: Bundle, rtx, *, load=loaded, **settings) -> str:
    return EngineStore(bundle, rtx, "8.9", "fp32", **settings).open("mapping", "b", SIZE, 1, load)


def engine_in(folder: Path) -> Path:
    (path,) = folder.glob("engines/mapping.b.*.engine")
    return path


def forged(path: Path) -> str:
    """The engine is another file by now, and its sidecar says so: whoever makes one makes both."""
    data = b"code of somebody else" * 100
    path.write_bytes(data)
    tree = json.loads(sidecar_path(path).read_text())
    tree |= {"engine_sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    sidecar_path(path).write_text(json.dumps(tree))
    assert check_engine(path, read_sidecar(path).key) is None
    return str(tree["engine_sha256"])


def test_a_bundles_engines_from_elsewhere_are_built_again_and_told(bundle, rtx, cache, caplog):
    theirs = read_sidecar(engine_in(bundle.folder)).engine_sha256
    assert trust_fault(engine_in(bundle.folder)) is not None
    assert open_mapping(bundle, rtx) != theirs
    (line,) = caplog.messages
    assert line.startswith("building the engine mapping.b fp32 for 32x32 with TensorRT for RTX")
    assert "it was not built here by you, and engines are code; --trust-engines runs it as it is" in line
    ours = read_sidecar(engine_in(cache)).engine_sha256
    assert open_mapping(bundle, rtx) == ours
    assert len(caplog.messages) == 1  # from the cache, without a word


def test_an_engine_of_the_cache_without_its_sidecar_is_built_again_and_told(bundle, rtx, cache, caplog):
    shutil.rmtree(bundle.folder / "engines")
    open_mapping(bundle, rtx)
    sidecar_path(engine_in(cache)).unlink()
    caplog.clear()
    open_mapping(bundle, rtx)
    (line,) = caplog.messages
    assert "it has no sidecar, so what it was built from is unknown" in line


def test_with_trust_they_are_loaded_as_they_are(bundle, rtx, cache, caplog):
    theirs = read_sidecar(engine_in(bundle.folder)).engine_sha256
    assert open_mapping(bundle, rtx, trust_engines=True) == theirs
    assert caplog.messages == []
    assert not cache.exists()


def test_engines_that_were_built_here_are_loaded_wherever_the_bundle_is(exported_engines, bundle, rtx, cache, caplog):
    shutil.copytree(exported_engines[1], cache)
    theirs = read_sidecar(engine_in(bundle.folder)).engine_sha256
    assert open_mapping(bundle, rtx) == theirs
    assert caplog.messages == []


def test_a_forged_engine_with_a_sidecar_of_its_own(exported_engines, bundle, rtx, cache):
    """In the place of one that was built here, and under its hash: neither is loaded."""
    shutil.copytree(exported_engines[1], cache)
    path = engine_in(bundle.folder)
    known = read_sidecar(path).engine_sha256
    evil = forged(path)
    assert open_mapping(bundle, rtx) not in {evil, known}
    tree = json.loads(sidecar_path(path).read_text())
    sidecar_path(path).write_text(json.dumps(tree | {"engine_sha256": known}))
    assert trust_fault(path) is None  # by its word
    assert open_mapping(bundle, rtx) not in {evil, known}  # but not by its bytes


def test_an_engine_that_is_exchanged_once_it_was_chosen(exported_engines, bundle, rtx, cache, monkeypatch, caplog):
    """Whoever may write to the bundle: engine and sidecar are other files between the choice and the reading."""
    shutil.copytree(exported_engines[1], cache)
    path = engine_in(bundle.folder)
    evil: list[str] = []
    real = store_module.find_engine

    def find(folder: Path, *arguments, **options):
        found = real(folder, *arguments, **options)
        if folder == bundle.folder / "engines" and not evil:
            assert found[0] == path
            evil.append(forged(path))
        return found

    monkeypatch.setattr(store_module, "find_engine", find)
    monkeypatch.setattr("dsmap.runtime.engines.lookup.engine_validity", lambda *_: Validity("unknown"))
    assert open_mapping(bundle, rtx) not in evil
    assert evil
    assert "it was not built here by you" in caplog.messages[0]


def test_export_builds_engines_of_others_again(bundle, rtx, cache):
    lines: list[str] = []
    build_engines(bundle, options(rtx), lines.append)
    assert "building content_encoder.a fp32 again: it was not built here by you" in lines[0]  # others are its equals
    lines.clear()
    build_engines(bundle, options(rtx), lines.append)
    assert all("is up to date" in line for line in lines)
    assert open_mapping(bundle, rtx) == read_sidecar(engine_in(bundle.folder)).engine_sha256


def test_engines_are_never_written_through_a_link(bundle, rtx, cache, tmp_path):
    target = tmp_path / "important"
    shutil.move(bundle.folder / "engines", target)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    (bundle.folder / "engines").symlink_to(target)
    with pytest.raises(InputError, match="engines is a link: engines are written into the bundle itself"):
        build_engines(bundle, options(rtx), lambda line: None)
    (bundle.folder / "engines").unlink()
    (bundle.folder / "engines").mkdir()
    name = next(target.glob("content_encoder.a.*.engine")).name
    (tmp_path / "file").write_bytes(b"mine")
    (bundle.folder / "engines" / name).symlink_to(tmp_path / "file")
    with pytest.raises(InputError, match="is a link, and nothing is written through it"):
        build_engines(bundle, options(rtx), lambda line: None)
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before


@pytest.mark.parametrize("kind", ["fifo", "zero", "nested", "huge", "doubled", "nan", "list"])
def test_sidecars_that_were_made_to_do_harm(bundle, rtx, cache, kind, caplog):
    sidecar = sidecar_path(engine_in(bundle.folder))
    text = sidecar.read_text()
    sidecar.unlink()
    match kind:
        case "fifo":
            os.mkfifo(sidecar)
        case "zero":
            sidecar.symlink_to("/dev/zero")
        case "nested":
            sidecar.write_text("[" * 100_000)
        case "huge":
            sidecar.write_text(" " * (2 << 20) + text)
        case "doubled":
            sidecar.write_text(text.replace('"bytes"', '"bytes": 1, "bytes"'))
        case "nan":
            sidecar.write_text(text.replace('"build_seconds": ', '"build_seconds": NaN, "later": '))
        case "list":
            sidecar.write_text("[]")
    open_mapping(bundle, rtx, trust_engines=True)
    assert "its sidecar is damaged or not dsmap's" in caplog.messages[0]


def test_what_a_sidecar_says_cannot_harm_a_terminal(bundle, rtx, cache, caplog):
    path = engine_in(bundle.folder)
    tree = json.loads(sidecar_path(path).read_text())
    tree["key"]["version"] = "\x1b[2Jerror:"
    sidecar_path(path).write_text(json.dumps(tree))
    odd = path.with_name(path.name.replace("16x16", "\x1b[31m"))
    odd.write_bytes(b"")
    open_mapping(bundle, rtx)
    assert caplog.messages[0].isprintable()
    assert "x1b[" in caplog.messages[0]


def test_an_engine_that_is_no_file_or_larger_than_it_says(bundle, rtx, cache, caplog):
    path = engine_in(bundle.folder)
    with path.open("ab") as file:
        file.truncate(1 << 40)
    open_mapping(bundle, rtx, trust_engines=True)
    assert "expected at most" in caplog.messages[0]
    path.unlink()
    os.mkfifo(path)
    shutil.rmtree(cache)
    open_mapping(bundle, rtx, trust_engines=True)
    assert "it does not exist" in caplog.messages[1]


# The option


@pytest.mark.parametrize(
    "command",
    [
        ["video", "in.png", "--domain", "winter"],
        ["live", "--domain", "winter", "--camera", "in.mp4", "--no-window", "--frames", "1"],
        ["bench", "video", "in.mp4", "--frames", "2"],
        ["bench", "live", "in.mp4", "--frames", "2"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("trust", [True, False])
def test_commands_hand_the_option_on(command, trust, tmp_path, monkeypatch):
    import cv2
    import numpy as np
    import typer
    from clips import make_clip

    from dsmap.runtime.translator import Translator

    monkeypatch.chdir(tmp_path)
    cv2.imwrite("in.png", np.zeros((32, 32, 3), np.uint8))
    make_clip(tmp_path / "in.mp4")
    seen: list[bool] = []

    def load(model: str, **options: object) -> Translator:
        seen.append(bool(options["trust_engines"]))
        raise DsmapError("far enough", "Stop.")

    monkeypatch.setattr(Translator, "load", load)
    module, *arguments = command
    app = typer.main.get_command(__import__(f"dsmap.tools.{module}", fromlist=["app"]).app)
    code = app(arguments + ["--trust-engines"] * trust, standalone_mode=False)
    assert code == 1
    assert set(seen) == {trust}


def test_settings_reach_the_engine_store(bundle, rtx, monkeypatch):
    from gpu_doubles import FLAVOUR, CpuEngineStore, LateCuda

    from dsmap.runtime.backends.base import BackendSettings
    from dsmap.runtime.backends.tensorrt import backend as tensorrt

    seen: list[bool] = []

    class EngineStore(CpuEngineStore):
        def __init__(self, *arguments: object, trust_engines: bool, **options: object) -> None:
            seen.append(trust_engines)
            raise DsmapError("far enough", "Stop.")

    monkeypatch.setattr(tensorrt, "need_gpu", lambda: "8.9")
    monkeypatch.setattr(tensorrt, "load_trt", lambda wanted: FLAVOUR)
    monkeypatch.setattr(tensorrt, "load_cuda", lambda binding: LateCuda())
    monkeypatch.setattr(tensorrt, "EngineStore", EngineStore)
    for trust in (True, False):
        with pytest.raises(DsmapError, match="far enough"):
            tensorrt.TensorRT(bundle, "b", BackendSettings(trust_engines=trust))
    assert seen == [True, False]


# The device is full


def test_a_full_device_is_no_reason_to_build_again(exported_engines, bundle, rtx, cache, caplog):
    shutil.copytree(exported_engines[1], cache)

    def full(data: bytes, title: str, profile: SizeProfile) -> str:
        raise OutOfMemoryError("out of memory", "Smaller.")

    with pytest.raises(OutOfMemoryError):
        open_mapping(bundle, rtx, load=full)
    assert caplog.messages == []


# The cache


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@posix
def test_the_cache_is_made_for_its_user_alone(cache):
    umask = os.umask(0)
    try:
        assert make_cache_folder() == cache / "engines"
    finally:
        os.umask(umask)
    assert mode_of(cache) == mode_of(cache / "engines") == 0o700


@posix
def test_a_cache_that_others_could_read_is_closed(bundle, rtx, cache):
    (cache / "engines").mkdir(parents=True)
    cache.chmod(0o755)
    (cache / "engines").chmod(0o755)
    open_mapping(bundle, rtx)
    assert mode_of(cache) == mode_of(cache / "engines") == 0o700


@posix
def test_a_folder_with_other_things_in_it_keeps_its_mode(cache):
    """DSMAP_CACHE=$HOME is no reason to lock others out of it."""
    cache.mkdir(mode=0o755)
    cache.chmod(0o755)
    (cache / "Documents").mkdir()
    make_cache_folder()
    assert (mode_of(cache), mode_of(cache / "engines")) == (0o755, 0o700)


def test_what_else_lies_in_the_cache_is_not_loaded(bundle, rtx, cache, caplog):
    """Put there while others could write to it: its hash is none that was written down."""
    open_mapping(bundle, rtx)
    evil = forged(engine_in(cache))
    assert open_mapping(Bundle.read(bundle.folder), rtx) != evil
    assert "engine: it was not built here by you" in caplog.messages[-1]  # the bundle's
    shutil.rmtree(bundle.folder / "engines")
    evil = forged(engine_in(cache))
    assert open_mapping(bundle, rtx) != evil
    assert "engine: it was not built here by you" in caplog.messages[-1]


@posix
@pytest.mark.parametrize("which", ["cache", "engines"])
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o702, 0o1777])
def test_a_cache_that_others_may_write_to_is_refused(bundle, rtx, cache, which, mode):
    open_mapping(bundle, rtx)
    poisoned = forged(engine_in(cache))
    place = cache if which == "cache" else cache / "engines"
    place.chmod(mode)
    with pytest.raises(DsmapError, match=f"others may write to .* \\(mode {mode:04o}\\)") as caught:
        open_mapping(bundle, rtx)
    assert "chmod 700" in caught.value.advice
    assert "DSMAP_CACHE" in caught.value.advice
    with pytest.raises(DsmapError, match="others may write to"):
        make_cache_folder()
    assert mode_of(place) == mode
    assert poisoned


@posix
@pytest.mark.parametrize("which", ["cache", "engines"])
def test_a_cache_that_is_a_link_is_refused(bundle, rtx, cache, tmp_path, which):
    open_mapping(bundle, rtx)
    place = cache if which == "cache" else cache / "engines"
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DsmapError, match="is a link, and what lies there is run as code") as caught:
        open_mapping(bundle, rtx)
    assert "DSMAP_CACHE" in caught.value.advice


@posix
def test_somebody_elses_cache_is_refused(bundle, rtx, cache, monkeypatch):
    open_mapping(bundle, rtx)
    monkeypatch.setattr(cache_folder.os, "geteuid", lambda: 4711)
    with pytest.raises(DsmapError, match="belongs to another user") as caught:
        open_mapping(bundle, rtx)
    assert "DSMAP_CACHE" in caught.value.advice
    with pytest.raises(DsmapError, match="belongs to another user"):
        make_cache_folder()


@posix
@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root may give folders away")
def test_somebody_elses_cache_for_real(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o777)
    os.chown(theirs, 4711, 4711)
    code = (
        "from dsmap.errors import DsmapError\nfrom dsmap.runtime.engines.cache import make_cache_folder\n"
        "try: make_cache_folder()\nexcept DsmapError as error: print(error)\n"
    )
    environment = os.environ | {"DSMAP_CACHE": str(theirs)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "belongs to another user (number 4711, not 0)" in done.stdout, done.stderr
    assert list(theirs.iterdir()) == []


@posix
def test_links_within_the_cache_are_not_followed(bundle, rtx, cache, tmp_path):
    open_mapping(bundle, rtx)
    engine = engine_in(cache)
    outside = tmp_path / "outside.engine"
    engine.rename(outside)
    engine.symlink_to(outside)
    with pytest.raises(InputError, match="is a link, and nothing is written through it"):
        open_mapping(bundle, rtx)


def test_the_record_knows_hashes_alone(cache):
    one, other = "0" * 64, "1" * 64
    assert not was_built_here(one)
    assert not cache.exists()
    remember_engine(one, Path("a\n" + other + " x.engine"))
    assert was_built_here(one)
    assert not any(was_built_here(text) for text in (other, "", "0", one[:-1], one + "\n", ".*"))
    record = cache / "engines" / "built-here.txt"
    record.rename(cache / "moved")
    record.symlink_to(cache / "moved")
    assert not was_built_here(one)
    with pytest.raises(InputError, match="is a link"):
        remember_engine(other, Path("b.engine"))


def test_without_a_private_cache_an_export_warns(bundle, rtx, cache, caplog):
    """The engines are there, and whoever runs them decides."""
    cache.mkdir()
    cache.chmod(0o777)
    shutil.rmtree(bundle.folder / "engines")
    if hasattr(os, "getuid"):
        build_engines(bundle, options(rtx), lambda line: None)
        assert len(caplog.messages) == 10
        assert "running it needs --trust-engines" in caplog.messages[0]
