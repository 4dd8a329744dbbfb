"""A site of a small model, with a camera that plays a file: what the tests of the page share."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from browsers import PATIENCE, need_web_runtime

WIDTH, HEIGHT, FRAMES = 64, 48, 30


def write_y4m(path: Path) -> None:
    """A second of a bright square that moves over a slope, 64x48."""
    generator = np.random.default_rng(4)
    with path.open("wb") as file:
        file.write(f"YUV4MPEG2 W{WIDTH} H{HEIGHT} F30:1 Ip A1:1 C420jpeg\n".encode())
        for at in range(FRAMES):
            luma = np.tile(np.linspace(40, 180, WIDTH, dtype=np.uint8), (HEIGHT, 1))
            luma[10:30, at : at + 20] = 230
            chroma = np.full((2, HEIGHT // 2, WIDTH // 2), generator.integers(90, 160), np.uint8)
            file.write(b"FRAME\n" + luma.tobytes() + chroma.tobytes())


def make_site(bundle: Path, folder: Path) -> None:
    """The site `folder/site` of a bundle, and the film `folder/camera.y4m`."""
    from dsmap.runtime.bundle.bundle import Bundle
    from dsmap.runtime.web.site import SiteRequest, build_site

    need_web_runtime()
    build_site(SiteRequest(bundle=Bundle.open(bundle), out=folder / "site"))
    write_y4m(folder / "camera.y4m")


def rename(site: Path, names: dict[str, str]) -> None:
    """Puts other names into a site's description, wherever they stand."""

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {names.get(key, key): renamed(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [renamed(inner) for inner in value]
        return names.get(value, value) if isinstance(value, str) else value

    path = site / "model" / "site.json"
    path.write_text(json.dumps(renamed(json.loads(path.read_text()))))


def wait_for(look: Callable[[], Any], what: str) -> Any:
    """What `look` returns once that is true. (The page's policy forbids Playwright's `wait_for_function`.)"""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.03)
    raise AssertionError(f"waited in vain for {what}")


def frames_shown(page: Any) -> int:
    """How many frames were translated and shown since the camera started; 0 while it is off."""
    return int(page.evaluate("document.querySelector('.compare')?.dataset.frames ?? 0"))


def start(page: Any, frames: int = 1) -> None:
    """Starts the camera and waits for its first frames."""
    page.click("#camera-start")
    wait_for(lambda: frames_shown(page) >= frames, f"{frames} frames")


def pictures(page: Any) -> tuple[np.ndarray, np.ndarray]:
    """What is seen, before and after, as uint8 RGB (H, W, 3); both of the same frame."""
    found = page.evaluate(
        """['before', 'after'].map(name => {
             const canvas = document.querySelector(`.compare .${name}`)
             const {width, height, data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height)
             return {width, height, data: Array.from(data)}
           })"""
    )
    before, after = (np.array(one["data"], np.uint8).reshape(one["height"], one["width"], 4)[..., :3] for one in found)
    return before, after
