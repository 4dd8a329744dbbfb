"""Calls of the module lib/dsmap.js in a browser, without the page around it."""

import base64
from typing import Any

import numpy as np

OPEN = """
async ({ address, target, backend }) => {
  const { loadModel } = await import(address + 'lib/dsmap.js')
  globalThis.parts = []
  globalThis.model = await loadModel(address, { backend, onProgress: part => parts.push(part) })
  globalThis.translator = await model.open(target ?? model.site.directions[0].target)
  return { ...translator.backend, psnr: String(translator.backend.psnr), source: translator.source }
}
"""
CALLS = """
() => {
  globalThis.asImage = ({ width, height, rgba }) =>
    new ImageData(Uint8ClampedArray.from(atob(rgba), char => char.charCodeAt(0)), width, height)
  globalThis.asText = data => btoa(Array.from(data, byte => String.fromCharCode(byte)).join(''))
}
"""


def open_model(page: Any, address: str, target: str | None = None, backend: str = "wasm") -> dict[str, Any]:
    """Loads the model in a page that shows nothing of ours; returns the backend. Raises Playwright's Error."""
    if not page.url.startswith(f"{address}licences"):
        page.goto(f"{address}licences/mediabunny.txt")
    page.evaluate(CALLS)
    return page.evaluate(OPEN, {"address": address, "target": target, "backend": backend})


def fault(page: Any, address: str, **wanted: Any) -> str:
    """What a person reads when the model cannot be opened."""
    from playwright.sync_api import Error

    try:
        open_model(page, address, **wanted)
    except Error as error:
        return error.message
    raise AssertionError("it opened")


def translate(page: Any, image: np.ndarray, **options: Any) -> np.ndarray:
    """An RGB or RGBA image (H, W, 3 or 4), translated: uint8 RGB (H, W, 3). `style`: a list of numbers."""
    found = page.evaluate(
        """async ({ image, options: { style, ...options } }) => {
             const { width, height, data } = await translator.translate(asImage(image),
               { ...options, style: style ? Float32Array.from(style) : null })
             return { width, height, rgba: asText(data) }
           }""",
        {"image": as_rgba(image), "options": options},
    )
    rgba = np.frombuffer(base64.b64decode(found["rgba"]), np.uint8).reshape(found["height"], found["width"], 4)
    assert (rgba[..., 3] == 255).all()
    return rgba[..., :3]


def encode_style(page: Any, image: np.ndarray) -> np.ndarray:
    """The style code of an image."""
    return np.array(
        page.evaluate("async image => Array.from(await translator.encodeStyle(asImage(image)))", as_rgba(image)),
        np.float32,
    )


def as_rgba(image: np.ndarray) -> dict[str, Any]:
    height, width, channels = image.shape
    rgba = np.full((height, width, 4), 255, np.uint8)
    rgba[..., :channels] = image
    return {"width": width, "height": height, "rgba": base64.b64encode(rgba.tobytes()).decode()}
