"""Options that several subcommands of dsmap-eval share, and the check of the files that they name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from dsmap.tools.shared.cli import path_given
from dsmap.tools.shared.panels import ADVANCED, INPUT, MEASURES, OUTPUT

Features = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        parser=path_given,
        help="Feature network: SqueezeNet .npz or Inception .pt.",
    ),
]
RunCode = Annotated[
    bool,
    typer.Option(
        "--features-run-code",
        help="Run a TorchScript network other than NVIDIA's.",
        rich_help_panel=ADVANCED,
    ),
]
Lpips = Annotated[
    str | None,
    typer.Option(
        "--lpips",
        metavar="NET",
        help="Measure diversity by LPIPS on alex, vgg or squeeze.",
        rich_help_panel=MEASURES,
    ),
]
Seed = Annotated[int, typer.Option(min=0, metavar="N", help="Random seed.", rich_help_panel=MEASURES)]
Source = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        parser=path_given,
        help="Training images of the source domain, for a classifier.",
        rich_help_panel=INPUT,
    ),
]
JsonFile = Annotated[
    Path | None,
    typer.Option(
        "--report", metavar="FILE.json", parser=path_given, help="Write all numbers as JSON.", rich_help_panel=OUTPUT
    ),
]
Page = Annotated[
    Path | None,
    typer.Option("--page", metavar="FILE.html", parser=path_given, help="Write an HTML page of numbers and images."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.", rich_help_panel=OUTPUT)]

NamedPaths = Sequence[tuple[Path | None, str]]
"""Files and folders that a command reads, as far as they were passed, each with what to call it."""


def check_outputs(
    outputs: dict[str, Path | None],
    read: NamedPaths,
    features: list[Path] | None,
    *,
    closed: Sequence[tuple[Path, str]] = (),
    overwrite: bool,
) -> None:
    """Raises InputError unless every file of `outputs` may be written: see `dsmap.common.output_files`."""
    from dsmap.common.output_files import check_outputs

    check_outputs(outputs, inputs_of(read, features), closed=closed, overwrite=overwrite)


def inputs_of(read: NamedPaths, features: list[Path] | None) -> list[tuple[Path, str]]:
    """What was passed of `read`, and the feature networks, each with what to call it."""
    networks = [(path, "a feature network") for path in features or []]
    return [*((path, name) for path, name in read if path is not None), *networks]
