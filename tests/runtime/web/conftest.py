"""A site of the tiny model, and a Chromium whose camera plays a film."""

import pytest
from browsers import browser, served
from camera_page import make_site


@pytest.fixture(scope="session")
def camera_site(tiny_bundle, made_once):
    """The folder of the site; what changes it copies it first."""
    return made_once("camera-site", lambda folder: make_site(tiny_bundle, folder)) / "site"


@pytest.fixture(scope="module")
def camera_chromium(camera_site):
    """Contexts with the permission `camera` get the film; the others are refused, as by a user."""
    film = f"--use-file-for-fake-video-capture={camera_site.parent / 'camera.y4m'}"
    with browser("--use-fake-device-for-media-stream", film) as chromium:
        yield chromium


@pytest.fixture(scope="module")
def camera_address(camera_site):
    """Where the site is served, with a backend that every machine has."""
    with served(camera_site) as address:
        yield f"{address}?backend=wasm"
