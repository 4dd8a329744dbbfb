"""Training of refiners for a bundle: what `dsmap-distill --refiner` does. Light to import."""

from pathlib import Path
from typing import TYPE_CHECKING

from dsmap.errors import InputError
from dsmap.tools.shared.terminal import say

if TYPE_CHECKING:
    from dsmap.runtime.backends.base import Frames
    from dsmap.runtime.translator import Translator
    from dsmap.training.requests import RefinerRequest


def train_refiners(model: str, request: "RefinerRequest") -> None:
    """Trains a refiner for each direction whose images are passed, and says what comes next. Raises InputError."""
    from dsmap.runtime.open_model import open_model
    from dsmap.runtime.translator import Translator

    request.check_out()
    try:
        bundle = open_model(model)
    except InputError as error:
        raise InputError(f"{error.fact}; --refiner needs a bundle", "Run dsmap-export first.") from error
    manifest = bundle.manifest
    pictures = request.pictures(manifest.domains, manifest.targets)
    say("loading torch ...")
    from dsmap.training.refiner_run import run_refiner

    files = run_refiner(
        request,
        pictures,
        lambda target: BundleTeacher(Translator.load(bundle, domain=target, precision="fp32")),
        model=manifest.name,
        say=say,
    )
    say(f"done: {', '.join(map(str, files))}")
    say(f"next: dsmap-export {model if Path(model).is_dir() else 'BUNDLE'} --refiner {request.out}")


class BundleTeacher:
    """A translator as a teacher; results of a lower height are enlarged as `--refine guided` does."""

    def __init__(self, translator: "Translator") -> None:
        self._translator = translator
        self._random = translator.bundle.manifest.has_styles
        self.source, self.target = translator.source, translator.target

    def translate(self, frame_rgb: "Frames", seed: int | None) -> "Frames":
        """The translation of a frame, in a random style if there is a seed and the model has styles."""
        self._translator.set_style(seed if self._random else None)
        return self._translator(frame_rgb).copy()

    def enlarge(self, frame_rgb: "Frames", small_rgb: "Frames", translated_rgb: "Frames") -> "Frames":
        """The base that is refined."""
        from dsmap.runtime.refine.guided import guided

        return guided(frame_rgb, small_rgb, translated_rgb)
