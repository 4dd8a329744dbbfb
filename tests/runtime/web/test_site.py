"""Writing a site: what lies in it, what is refused, and where the files of other projects come from."""

import hashlib
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from browsers import make_site, need_web_runtime, served
from processes import is_alive

from dsmap.errors import DsmapError, InputError
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.bundle.bundled import find_model
from dsmap.runtime.translator import Translator
from dsmap.runtime.web import vendor
from dsmap.runtime.web.reference import reference_frame
from dsmap.runtime.web.site import SiteRequest, build_site
from dsmap.runtime.web.vendor import VENDOR_FILES, find_vendor_files


@pytest.fixture(scope="module")
def site(tiny_bundle, made_once) -> Path:
    return made_once("web-site", lambda folder: make_site(tiny_bundle, folder / "site")) / "site"


def description(site: Path) -> dict:
    return json.loads((site / "model" / "site.json").read_text(encoding="utf-8"))


def test_a_site_is_whole(site, tiny_bundle):
    """Every file that it names is there with its hash, and it names no host."""
    listed = description(site)
    assert listed["directions"] == [
        {"source": "winter", "target": "summer"},
        {"source": "summer", "target": "winter"},
    ]
    assert listed["precisions"] == ["fp32"]
    assert listed["server"] is None
    for parts in listed["files"]["fp32"].values():
        for file in parts.values():
            data = (site / file["path"]).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (file["bytes"], file["sha256"])
    version = json.loads((site / "site-version.js").read_text().partition("= ")[2].rstrip(";\n"))
    files = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    assert set(version["files"]) == files - {"site-version.js", "service-worker.js"}
    assert {"index.html", "lib/dsmap.js", "licences/onnxruntime-web.txt", "licences/mediabunny.txt"} <= files
    for path in (site / name for name in files if not name.startswith(("runtime/", "licences/"))):
        if path.suffix in (".js", ".html", ".css"):
            hosts = set(re.findall(r"https?://([\w.]+)", path.read_text())) - {"www.w3.org"}
            assert not hosts, path  # no other host: no tracking, no CDN


def test_the_reference_is_the_translation_of_python(site, tiny_bundle):
    reference = description(site)["reference"]["winter"]
    shape = (reference["height"], reference["width"], 3)
    frame, output = (
        np.frombuffer((site / reference[name]).read_bytes(), np.uint8).reshape(shape) for name in ("frame", "output")
    )
    assert np.array_equal(output, Translator.load(tiny_bundle, domain="winter", backend="cpu")(frame))
    assert np.array_equal(frame, reference_frame(8, 16))
    assert reference_frame(8, 100).shape == (104, 104, 3)
    assert len(np.unique(frame.reshape(-1, 3), axis=0)) > 1000


def test_one_direction_and_every_precision(exported, tmp_path):
    site = description(make_site(exported.folder, tmp_path / "site", targets=("winter",)))
    assert site["directions"] == [{"source": "summer", "target": "winter"}]
    assert list(site["reference"]) == ["winter"]
    assert site["precisions"] == list(site["files"]) == ["fp32", "fp16"]  # int8 differs too much in browsers
    assert site["files"]["fp16"]["decoder"]["winter"]["path"].startswith("model/decoder-1.fp16.")


def test_a_site_replaces_only_a_site(tiny_bundle, tmp_path):
    out = tmp_path / "site"
    make_site(tiny_bundle, out)
    with pytest.raises(InputError, match="exists already"):
        make_site(tiny_bundle, out)
    before = out.stat().st_ino
    make_site(tiny_bundle, out, overwrite=True)
    assert out.stat().st_ino != before
    for name in ("CNAME", ".git/HEAD", "app/thesis.tex"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("mine")
        with pytest.raises(InputError, match=f"holds {name}, which is no part of the site"):
            make_site(tiny_bundle, out, overwrite=True)
        assert (out / name).read_text() == "mine"
        (out / name).unlink()
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mother.txt").write_text("dear")
    for wanted in ({}, {"overwrite": True}):
        with pytest.raises(InputError, match="holds other files than a site"):
            make_site(tiny_bundle, tmp_path / "letters", **wanted)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_only_what_changed_is_written_again(tiny_bundle, tmp_path):
    out = tmp_path / "site"
    request = SiteRequest(bundle=Bundle.open(tiny_bundle), out=out, overwrite=True)
    first = build_site(request)
    assert first.new_bytes == first.bytes
    files = {path: (path.stat().st_ino, path.read_bytes()) for path in out.rglob("*") if path.is_file()}
    other = out / "index.html"
    other.write_bytes(bytes(len(files[other][1])))  # as long, but damaged
    again = build_site(request)
    assert again.version == first.version
    assert again.new_bytes == len(files[other][1])
    for path, (inode, data) in files.items():
        assert path.read_bytes() == data
        assert path.stat().st_nlink == 1
        assert (path.stat().st_ino == inode) == (path != other)


def test_bad_wishes_are_refused_before_any_work(tiny_bundle, tmp_path):
    with pytest.raises(InputError, match="no domain 'autumn'"):
        make_site(tiny_bundle, tmp_path / "site", targets=("autumn",))
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    with pytest.raises(InputError, match="in one another"):
        make_site(bundle, bundle / "site")
    with pytest.raises(InputError, match="in one another"):
        make_site(bundle, tmp_path, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        make_site(tiny_bundle, tmp_path / "file")
    with pytest.raises(InputError, match="does not exist"):
        make_site(tiny_bundle, tmp_path / "no" / "site")
    assert not (tmp_path / "site").exists()


def test_a_damaged_bundle_makes_no_site(tiny_bundle, tmp_path):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    graph = next(bundle.glob("decoder*.onnx"))
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="has changed since it was exported"):
        make_site(bundle, tmp_path / "site")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_files_of_other_projects_are_those_that_were_tested(tmp_path):
    need_web_runtime()
    found = find_vendor_files()
    packages = tmp_path / "node_modules"
    for file, path in found.items():
        copy = packages / file.package.rpartition("@")[0] / file.path
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    for folder in (tmp_path, packages):
        assert set(find_vendor_files(folder)) == set(VENDOR_FILES)
    copy.write_bytes(b"x" + copy.read_bytes()[1:])
    with pytest.raises(InputError, match="is not the file that was tested"):
        find_vendor_files(packages)
    copy.unlink()
    with pytest.raises(InputError, match=f"has no {copy.relative_to(packages).as_posix()}"):
        find_vendor_files(packages)


def test_without_npm_the_advice_is_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setenv("DSMAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(vendor, "PACKAGED", tmp_path / "nothing")  # a wheel may have brought them
    with pytest.raises(InputError, match="there is no npm") as failed:
        find_vendor_files()
    assert "Install Node.js" in failed.value.advice


def test_where_no_cache_can_be_the_package_will_do(monkeypatch, tmp_path):
    """As in a container whose user has no home; a server's page does without what is nowhere."""
    from dsmap.runtime.bundle.bundle import Bundle
    from dsmap.runtime.web.site import SiteRequest, build_site

    need_web_runtime()
    packaged = tmp_path / "vendor"
    packaged.mkdir()
    for path in find_vendor_files().values():
        shutil.copy(path, packaged)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DSMAP_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(vendor, "PACKAGED", packaged)
    assert {path.parent for path in find_vendor_files().values()} == {packaged}
    monkeypatch.setattr(vendor, "PACKAGED", tmp_path / "nothing")
    with pytest.raises(DsmapError, match="cannot make the cache folder") as failed:
        find_vendor_files()
    assert "engines" not in str(failed.value)
    said: list[str] = []
    bundle = Bundle.open(find_model("summer-winter"))
    build_site(SiteRequest(bundle=bundle, out=tmp_path / "site", server={"token": False}), said.append)
    assert not bundle._held  # as long as the server runs
    assert said[-1].startswith("the page will not open videos: cannot make the cache folder")


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands for npm")
def test_an_npm_that_hangs_is_given_up(monkeypatch, tmp_path):
    """With all that it has started, which may hold its output open."""
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f"#!/bin/sh\n/bin/sleep 600 &\necho $! > {tmp_path}/child\nwait\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm.parent))
    for patience in (0.5, 5, 30):
        monkeypatch.setattr(vendor, "_PATIENCE", patience)
        with pytest.raises(InputError, match="did not end within") as failed:
            vendor.fetch_vendor_files(VENDOR_FILES[:1], tmp_path / "out")
        assert "Check the network" in failed.value.advice
        if (tmp_path / "child").exists() and (tmp_path / "child").read_text():
            break  # else it was given up before it had started anything
    child = (tmp_path / "child").read_text().strip()
    end = time.monotonic() + 120
    while is_alive(child):
        assert time.monotonic() < end, "what npm has started goes on"
        time.sleep(0.01)


def test_the_server_serves_files_and_nothing_else(site):
    with served(site) as address:
        with urllib.request.urlopen(address) as answer:
            headers = answer.headers
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert headers["X-Content-Type-Options"] == "nosniff"
        for name, kind in (("runtime/ort-wasm-simd-threaded.wasm", "application/wasm"),
                           ("runtime/mediabunny.min.mjs", "text/javascript")):  # fmt: skip
            with urllib.request.urlopen(address + name) as answer:
                assert answer.headers["Content-Type"] == kind
        for name in (
            "model/",
            "lib",
            "../../../../../../etc/passwd",
            "%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
            "missing.js",
        ):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(address + name)
