"""The service worker: a site from any static host, without a network after the first visit, and after an update."""

import json
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from browsers import PATIENCE, browser, make_site, open_page
from ports import free_port

KEPT = """
async () => {
  const found = {}
  for (const key of await caches.keys()) {
    found[key] = (await (await caches.open(key)).keys()).map(request => request.url)
  }
  return found
}
"""


@pytest.fixture(scope="module")
def chromium():
    with browser() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def site(tiny_bundle, made_once) -> Path:
    return made_once("web-site", lambda folder: make_site(tiny_bundle, folder / "site")) / "site"


@contextmanager
def plain_host(folder: Path, port: int | None = None):
    """(port, process) of `python -m http.server`, which sends no headers of ours."""
    port = port or free_port()
    command = [sys.executable, "-u", "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield int(process.stdout.readline().split(" port ")[1].split()[0]), process
    finally:
        process.kill()
        process.wait()


def wait_for(look, what: str, patience: float = PATIENCE):
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited in vain for {what}")


def open_kept(page, address: str) -> None:
    """Opens the page; returns once the service worker is in charge."""
    page.goto(address)
    wait_for(lambda: ask(page, "navigator.serviceWorker.controller !== null"), "the service worker")


def visit(page, address: str) -> str:
    """As `open_kept`; returns the backend once the model is loaded."""
    open_kept(page, address)
    return wait_for(lambda: ask(page, "document.querySelector('#number-backend')?.textContent"), "the backend")


def title_of(page) -> str:
    """The title, once it names the model."""
    return wait_for(lambda: " \u00b7 " in (title := ask(page, "document.title") or "") and title, "the title")


def ask(page, script: str):
    """What a script returns; None while the page is being reloaded."""
    from playwright.sync_api import Error

    try:
        return page.evaluate(script)
    except Error as error:
        if "context was destroyed" in error.message or "navigat" in error.message:
            return None
        raise


def kept(page) -> list[str]:
    return [url for urls in (ask(page, KEPT) or {}).values() for url in urls]


def test_a_moved_site_works_offline_with_threads(chromium, site, tmp_path):
    """On a host without the headers, in a folder below its root."""
    graphs = {path.name for path in (site / "model").glob("*.onnx")}
    shutil.copytree(site, tmp_path / "a folder" / "moved")
    with open_page(chromium) as page, plain_host(tmp_path) as (port, host):
        address = f"http://127.0.0.1:{port}/a%20folder/moved/"
        assert visit(page, f"{address}#images") == "wasm-threads"
        assert page.evaluate("crossOriginIsolated")
        wait_for(lambda: graphs <= {url.rpartition("/")[2] for url in kept(page)}, "the graphs of both directions")
        host.kill()
        host.wait()
        assert visit(page, f"{address}?backend=wasm#images") == "wasm-threads"
        said = page.evaluate(
            """async () => {
                 const { loadModel } = await import('./lib/dsmap.js')
                 const model = await loadModel('./', { backend: 'wasm' })
                 const done = []
                 for (const { target } of model.site.directions) {
                   const translator = await model.open(target)
                   const { width } = await translator.translate(new ImageData(16, 16), { strength: 0.5 })
                   await translator.encodeStyle(new ImageData(64, 64))
                   translator.close()
                   done.push(width)
                 }
                 return done
               }"""
        )
        assert said == [16, 16]
        assert page.complaints == []


def test_a_changed_site_replaces_the_old_one_whole(chromium, site, tmp_path):
    """The next visit has the new version, and nothing that has not changed is loaded again."""
    copy = Path(shutil.copytree(site, tmp_path / "site"))
    with open_page(chromium) as page, plain_host(copy) as (port, _):
        address = f"http://127.0.0.1:{port}/"
        visit(page, address)
        wait_for(lambda: any(name == "style_encoder-1" for name in map(_stem, kept(page))), "all that is kept")
        before, title = ask(page, "caches.keys()"), title_of(page)
        assert len(before) == 1
        _rewrite(copy, "another name")
        (copy / "runtime" / "ort-wasm-simd-threaded.wasm").unlink()  # has not changed: it is not loaded again
        other = page.context.new_page()
        for each in (other, page):
            open_kept(each, address)
            assert title_of(page) == title  # another page is open
        wait_for(
            lambda: ask(page, "navigator.serviceWorker.getRegistration().then(it => it.waiting !== null)"),
            "the new version",
        )
        other.close()
        open_kept(page, address)
        wait_for(lambda: ask(page, "document.title") == "another name · dsmap", "the new name")
        wait_for(lambda: set(ask(page, "caches.keys()") or before).isdisjoint(before), "the old version's end")


def test_a_half_copied_update_is_not_taken(chromium, site, tmp_path):
    copy = Path(shutil.copytree(site, tmp_path / "site"))
    with open_page(chromium) as page, plain_host(copy) as (port, _):
        address = f"http://127.0.0.1:{port}/"
        visit(page, address)
        title = title_of(page)
        _rewrite(copy, "whole")
        _rewrite(copy, "half", version=False)  # not the one that site-version.js lists
        for _ in range(2):
            visit(page, address)
            assert title_of(page) == title


def test_a_server_at_the_address_of_a_site_takes_over(chromium, site, tiny_bundle, tmp_path):
    """No worker and no cache of the static site stay, and a token after # gets to the server's page."""
    server = {"token": False, "backend": "cpu", "fast": False}
    with open_page(chromium) as page:
        with plain_host(site) as (port, _):
            address = f"http://127.0.0.1:{port}/"
            visit(page, address)
        other = make_site(tiny_bundle, tmp_path / "server", server=server)
        with plain_host(other, port):
            page.goto("about:blank")
            page.goto(f"{address}#token=x")

            visited = time.monotonic()

            def is_taken_over() -> bool:
                """A page does not wait for a new version that is installed slowly: the next visit has it."""
                nonlocal visited
                backend = ask(page, "document.querySelector('#number-backend')?.textContent") or ""
                if "wasm" in backend or time.monotonic() - visited > 20:
                    page.goto("about:blank")
                    page.goto(f"{address}#token=x")
                    visited = time.monotonic()
                return "cpu (server)" in backend

            wait_for(is_taken_over, "the server's page", PATIENCE)
            for end in (
                "navigator.serviceWorker.getRegistrations().then(all => all.length === 0)",
                "caches.keys().then(keys => keys.length === 0)",
            ):
                wait_for(lambda end=end: ask(page, end), end)
            assert ask(page, "location.hash").endswith("token=x")
            page.reload()
            assert ask(page, "navigator.serviceWorker.controller === null")


def _rewrite(site: Path, name: str, *, version: bool = True) -> None:
    """Gives the model of a site another name; without `version` the rest of the site does not know it."""
    from dsmap.runtime.web.site import write_version
    from dsmap.runtime.web.site_writer import SiteWriter

    path = site / "model" / "site.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"name": name}))
    if version:
        (site / "site-version.js").unlink()
        write_version(SiteWriter(site))


def _stem(url: str) -> str:
    return url.rpartition("/")[2].partition(".")[0]
