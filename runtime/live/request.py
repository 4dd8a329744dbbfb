"""A live session as one frozen request, and the call that runs it.

bundle = Bundle.open(find_model("summer-winter"))
request = LiveRequest(sources=(find_source("0"),), bundle=bundle, domain="winter", settings=LiveSettings(styles=...))
report = run_live(request, notify=print)
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsmap.common.notify import Notify
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.live.capture import Capture
from dsmap.runtime.live.display import check_display
from dsmap.runtime.live.open_source import opener
from dsmap.runtime.live.report import LiveReport
from dsmap.runtime.live.run import LiveRun, LiveSettings
from dsmap.runtime.live.source import CaptureRequest, SourceName
from dsmap.runtime.live.translation import LoadedDirection
from dsmap.runtime.live.virtual_camera import VirtualCamera
from dsmap.runtime.live.window import CvWindow, NoWindow, Window
from dsmap.runtime.translator import Translator
from dsmap.runtime.video.hardware import OFF

_USUAL_FPS = 30.0


@dataclass(frozen=True, kw_only=True)
class LiveRequest:
    """What a session reads, what translates it, and where the result goes."""

    sources: tuple[SourceName, ...]
    """The first is shown first; a key switches to the next."""
    capture: CaptureRequest = CaptureRequest()  # noqa: RUF009  # frozen
    hwaccel: str = OFF
    """What decodes files and streams: one of `HWACCELS`."""
    loop: bool = False
    """Files start over at their end."""
    bundle: Bundle
    domain: str
    """To translate to; a key changes the direction."""
    backend: str = "auto"
    precision: str = "auto"
    cuda_binding: str = "auto"
    trust_engines: bool = False
    style_spread: float = 1.0
    """Distance of random styles from the mean, see `random_code`."""
    settings: LiveSettings
    window: bool = True
    virtual_camera: bool = False

    @property
    def input_files(self) -> list[tuple[Path, str]]:
        """Files that no output may replace, each with what it is for an error message."""
        images = [(style.image, "the --style image") for style in self.settings.styles if style.image is not None]
        return images + [(Path(name.text), "the --camera file") for name in self.sources if name.kind == "file"]

    def load(self, domain: str) -> Translator:
        """The translator to `domain`."""
        return Translator.load(
            self.bundle,
            domain=domain,
            backend=self.backend,
            precision=self.precision,
            cuda_binding=self.cuda_binding,
            trust_engines=self.trust_engines,
            style_spread=self.style_spread,
        )


def run_live(
    request: LiveRequest,
    *,
    notify: Notify,
    on_loaded: Callable[[Translator], None] | None = None,
    began: float | None = None,
) -> LiveReport:
    """Run the session until something stops it; failures during the session are in the report.

    Call it in the main thread where there is a window. `notify` gets a line about each event, from any thread;
    `on_loaded` the translator, before the first frame. `began`: see `LiveRun`. Raises InputError or DsmapError when the
    display, a source or the model cannot be opened.
    """
    window = open_window(request.window)
    virtual_camera = VirtualCamera(request.capture.fps or _USUAL_FPS) if request.virtual_camera else None
    with _captures(request, notify) as cameras:
        direction = LoadedDirection.load(request.load, request.domain, request.settings.styles)
        for _, capture in cameras:
            if capture.error is not None:
                direction.translator.close()
                raise capture.error
        if on_loaded is not None:
            on_loaded(direction.translator)
        return LiveRun(
            request.settings,
            cameras,
            direction,
            request.load,
            window=window,
            notify=notify,
            virtual_camera=virtual_camera,
            began=began,
        ).run()


def open_window(wanted: bool) -> Window:
    """A window, or what stands for none. Raises DsmapError where there is no display."""
    if not wanted:
        return NoWindow()
    check_display()
    return CvWindow("dsmap-live")


@contextlib.contextmanager
def _captures(request: LiveRequest, notify: Notify) -> Iterator[Sequence[tuple[SourceName, Capture]]]:
    """The sources, opening while the model loads."""
    captures = [
        (
            name,
            Capture(
                name.shown,
                opener(name, request.capture, loop=request.loop, hwaccel=request.hwaccel, notify=notify),
                notify,
            ),
        )
        for name in request.sources
    ]
    for _, capture in captures:
        capture.start()
    try:
        yield captures
    finally:
        for _, capture in captures:
            capture.stop()
