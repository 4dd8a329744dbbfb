"""The page's modes for files, in a real Chromium: what the tests of videos and images share."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


def open_mode(page: Any, address: str, mode: str) -> None:
    page.goto(f"{address}#{mode}")
    page.wait_for_selector("#choose")


def give(page: Any, kind: str, files: list[Path]) -> None:
    """Drops (`drop`) or pastes (`paste`) files, as a user does with the mouse or the keyboard."""
    contents = [{"name": path.name, "bytes": list(path.read_bytes())} for path in files]
    page.evaluate(
        """([kind, files]) => {
             const data = new DataTransfer()
             const types = {png: 'image/png', jpg: 'image/jpeg', mp4: 'video/mp4'}
             for (const {name, bytes} of files) {
               data.items.add(new File([new Uint8Array(bytes)], name, {type: types[name.split('.').pop()] ?? ''}))
             }
             const pasted = new ClipboardEvent('paste', {clipboardData: data, cancelable: true})
             if (kind === 'paste') return window.dispatchEvent(pasted)
             for (const type of ['dragover', 'drop']) {
               const event = new DragEvent(type, {dataTransfer: data, bubbles: true, cancelable: true})
               document.querySelector('#stage').firstElementChild.dispatchEvent(event)
             }
           }""",
        [kind, contents],
    )


def save(page: Any, button: str, folder: Path) -> Path:
    """What a download button gives, under the name that the page suggests."""
    with page.expect_download() as download:
        page.click(button)
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def psnr(one: Pixels, other: Pixels) -> float:
    assert one.shape == other.shape
    return float(10 * np.log10(255**2 / max(1e-9, np.square(one.astype(float) - other).mean())))
