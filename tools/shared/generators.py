"""Options and inputs of commands that train or export generators. Light to import."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsmap.tools.shared.cli import path_given
from dsmap.tools.shared.panels import MODEL, TRAINING

if TYPE_CHECKING:
    from dsmap.model.dsmap import DSMAP


NewRun = Annotated[
    Path, typer.Option("--output", "-o", parser=path_given, metavar="RUN", help="New folder for the checkpoint.")
]
FeatureFile = Annotated[
    str | None,
    typer.Option("--features", metavar="FILE", help="Feature network: vgg16 or a SqueezeNet .npz."),
]
LearningRate = Annotated[
    float, typer.Option("--lr", metavar="RATE", help="Initial learning rate.", rich_help_panel=TRAINING)
]
Contrast = Annotated[
    list[str] | None,
    typer.Option(
        "--contrast",
        metavar="[DOMAIN:]FACTOR",
        help="Contrast of the output, e.g. 1.1 (repeatable).",
        rich_help_panel=MODEL,
    ),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Random seed.", rich_help_panel=TRAINING)]


def read_generators(given: str) -> "DSMAP":
    """The averaged generators of a run (its latest checkpoint), a checkpoint, a bundle or a known model, to evaluate.

    Raises InputError for anything else.
    """
    from dsmap.runtime.bundle.bundle import Bundle
    from dsmap.runtime.bundle.bundled import find_model, is_model_name
    from dsmap.runtime.bundle.manifest import MANIFEST
    from dsmap.training.checkpoint import find_checkpoint, load_generators, read_checkpoint

    if is_model_name(given) or (Path(given) / MANIFEST).is_file():
        from dsmap.export.bundle_to_torch import generators_of_bundle

        return generators_of_bundle(Bundle.read(find_model(given)))
    return load_generators(read_checkpoint(find_checkpoint(Path(given))))
