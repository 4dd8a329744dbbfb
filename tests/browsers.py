"""A real Chromium for the tests, and sites to open in it."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

FLAGS = (
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
"""A camera that shows a clock; `--use-file-for-fake-video-capture=X.y4m` shows a file instead."""
SOFTWARE_WEBGPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
PATIENCE = 180.0  # seconds; the machine may be busy
_RUNTIME = Path(__file__).parents[1] / "build" / "web-runtime"
_started: list[Any] = []


def chromium_path() -> str:
    """The path of Chromium; the test is skipped without it."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    return path


def need_web_runtime() -> None:
    """Puts the files of other projects that a site needs into the tests' cache; the test is skipped without them.

    They are fetched once for all runs of this checkout.
    """
    from dsmap.common.cache_folder import private_folder
    from dsmap.errors import DsmapError
    from dsmap.runtime.web.vendor import VENDOR_FILES, fetch_vendor_files, find_vendor_files

    _RUNTIME.parent.mkdir(exist_ok=True)
    with FileLock(f"{_RUNTIME}.lock"):
        try:
            find_vendor_files(_RUNTIME)
        except DsmapError:
            try:
                fetch_vendor_files(VENDOR_FILES, _RUNTIME)
            except DsmapError as error:
                pytest.skip(f"no site can be built here: {error.fact}")
        for path in _RUNTIME.iterdir():
            copy = private_folder("web-runtime") / path.name
            if not copy.exists():
                shutil.copy(path, copy)


def make_site(bundle: Path, out: Path, **wanted: Any) -> Path:
    """The site of a bundle; `wanted` as for `SiteRequest`."""
    from dsmap.runtime.bundle.bundle import Bundle
    from dsmap.runtime.web.site import SiteRequest, build_site

    need_web_runtime()
    build_site(SiteRequest(bundle=Bundle.open(bundle), out=out, **wanted))
    return out


@contextlib.contextmanager
def browser(*flags: str) -> Iterator[Any]:
    """A Chromium of its own, headless, as a Playwright `Browser`; `new_context()` has its own cache and storage.

    Not for the whole session: while Playwright runs, its thread cannot run `asyncio.run`.
    """
    path = chromium_path()
    with _playwright() as started:
        chromium = started.chromium.launch(executable_path=path, args=[*FLAGS, *flags])
        try:
            yield chromium
        finally:
            chromium.close()


@contextlib.contextmanager
def _playwright() -> Iterator[Any]:
    """Playwright, started once however many browsers run."""
    if _started:
        yield _started[0]
        return
    module = pytest.importorskip("playwright.sync_api", reason="no Playwright here: pip install playwright")
    with module.sync_playwright() as playwright:
        _started.append(playwright)
        try:
            yield playwright
        finally:
            _started.clear()


@contextlib.contextmanager
def open_page(chromium: Any, **options: Any) -> Iterator[Any]:
    """A page in a context of its own; `page.complaints` collects errors of scripts and of the console."""
    context = chromium.new_context(**options)
    context.set_default_timeout(PATIENCE * 1000)
    page = context.new_page()
    page.complaints = []
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("console", lambda said: page.complaints.append(said.text) if said.type == "error" else None)
    try:
        yield page
    finally:
        context.close()


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a site that `dsmap web --serve` serves."""
    import threading

    from dsmap.runtime.web.static_server import SiteServer

    with SiteServer(folder) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield server.address
        finally:
            server.shutdown()
