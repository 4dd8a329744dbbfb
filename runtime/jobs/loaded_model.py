"""The model of a request, loaded for its inputs."""

from typing import Any, NamedTuple, Self

from dsmap.errors import DsmapError
from dsmap.runtime.backends.onnxruntime_session import onnxruntime_installed
from dsmap.runtime.frame_translator import FrameTranslator
from dsmap.runtime.hub.models import source_of
from dsmap.runtime.jobs.request import VideoRequest
from dsmap.runtime.stabilization.stabilizer import StabilizedTranslator, Stabilizer
from dsmap.runtime.styles.strength import StrengthTranslator
from dsmap.runtime.styles.style_path import StylePathTranslator
from dsmap.runtime.translator import Translator


class ModelSummary(NamedTuple):
    """What a loaded model is: plain values, which another process can be told."""

    direction: str
    """The model and its domains, for people."""
    lines: tuple[str, ...]
    """The style, unless it is the usual one, and the backend: a line each, for people."""
    facts: dict[str, Any]
    """What ran, for the report of the run."""
    fingerprint: dict[str, Any]
    """Everything about the model that frames depend on, in JSON's types."""


class LoadedModel:
    """The translator of a request, and its style over time. A context manager, which closes the translator."""

    def __init__(self, request: VideoRequest, *, largest: tuple[int, int] | None) -> None:
        """`largest`: (width, height) of the largest video frames, None without videos.

        Raises InputError for a backend, precision or strength that is not available, DsmapError when it does not run.
        """
        options = request.model
        if largest is not None and 0 < options.strength < 1:  # both directions at once need as much as a double frame
            largest = 2 * largest[0], largest[1]
        translator = Translator.load(
            request.bundle,
            domain=options.domain,
            backend=options.backend,
            style=request.style.fixed,
            precision=options.precision,
            cuda_binding=options.cuda_binding,
            streams=options.streams,
            trust_engines=options.trust_engines,
            for_frames=largest,
            style_spread=request.style.spread,
            tile=options.tile,
        )
        translator.may_tile = translator.backend_name == "cpu" and not options.tile
        self._request = request
        self.translator = translator
        self.for_images: FrameTranslator = translator
        self.for_videos: FrameTranslator
        if options.strength != 1:
            self.for_images = StrengthTranslator(translator, options.strength)
        self.for_videos = self.for_images
        self._codes = [translator.style]
        if request.style.path is not None:
            path = request.style.path.load(translator.find_style)
            self.for_videos = StylePathTranslator(self.for_videos, path)
            self._codes += path.codes
        if options.stabilize:
            self.for_videos = StabilizedTranslator(self.for_videos, Stabilizer())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.for_images.close()

    @property
    def direction(self) -> str:
        """The model and its domains, for people."""
        return f"{self.translator.model_name}: {self.translator.source} -> {self.translator.target}"

    @property
    def refine(self) -> str:
        """How results of a lower height are refined, where there are any: "learnt", "guided" or "off"."""
        way = _wanted_refining(self._request)
        if way in ("off", "guided"):
            return way
        return "learnt" if self.for_images.has_learnt_refiner() else "guided"

    def settle_refining(self, way: str) -> None:
        """Refines as other processes do, see `settled_refining`. Raises DsmapError where this one cannot."""
        self.translator.uses_refiner = way == "learnt"
        if self.refine != way:
            raise DsmapError(
                "the model's refiner cannot be used here: ONNX Runtime is not installed",
                "pip install 'dsmap[cpu]' on every node, or pass --refine guided",
            )

    def describe(self) -> list[str]:
        """The style, unless it is the usual one, and the backend: a line each, for people."""
        style = self._request.style
        backend = f"backend: {self.translator.backend_title}"
        return [*([] if style.is_default else [f"style: {style}{style.note}"]), backend]

    def details(self) -> list[str]:
        """The backend with its version, and why it was chosen: a line, for people who ask."""
        translator = self.translator
        return [f"  {translator.backend_name}: {translator.backend_description} ({translator.backend_reason})"]

    def summary(self) -> ModelSummary:
        """All of it that is plain values."""
        return ModelSummary(self.direction, tuple(self.describe()), self.facts(), self.fingerprint())

    def facts(self) -> dict[str, Any]:
        """What ran, for the report of the run."""
        translator = self.translator
        return {
            "model": translator.model_name,
            **source_of(translator.bundle.folder),
            "backend": translator.backend_name,
            "style": str(self._request.style),
            "source": translator.source,
            "target": translator.target,
            "backend_description": translator.backend_description,
            "backend_reason": translator.backend_reason,
            "precision": translator.precision,
            "refine": self.refine,
        }

    def fingerprint(self) -> dict[str, Any]:
        """Everything about the model that frames depend on, in JSON's types; the keys are those of unfinished jobs."""
        translator, request = self.translator, self._request
        return {
            "model": translator.bundle.fingerprint,
            "--domain": translator.target,
            "style": [[float(number) for number in code] for code in self._codes],
            "style as written": str(request.style),  # for messages: see `FOR_MESSAGES`
            "style over time": str(request.style.path) if request.style.path else None,
            "--strength": request.model.strength,
            "--stabilize": request.model.stabilize,
            "--precision": translator.precision,
            "refinement": self.refine,
            **({"--tile": True} if request.model.tile else {}),
        }


def settled_refining(request: VideoRequest) -> str:
    """How all processes of a run refine results: as this one would, so that the parts of a video are alike."""
    way = _wanted_refining(request)
    if way != "auto":
        return way
    has_one = request.domain in request.bundle.manifest.components.refiner and request.model.strength == 1
    return "learnt" if has_one and onnxruntime_installed() else "guided"


def _wanted_refining(request: VideoRequest) -> str:
    """What was asked for: off, guided, learnt, or auto."""
    return request.options.refine if request.options.upscale else "off"
