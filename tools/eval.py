"""dsmap-eval: how good a result is, in numbers.

dsmap-eval video holiday.mp4 holiday-winter.mp4                          how steady the translation is
dsmap-eval video holiday.mp4 holiday-winter.mp4 --report steady.json --plot steady.png
"""

from pathlib import Path
from typing import Annotated

import typer

from dsmap.tools._cli import Debug, Version, explained, new_app, path_given, run

app = new_app()


@app.callback()
def evaluate() -> None:
    """Measure results: numbers with their definitions in docs/steadiness.md."""


@app.command()
@explained
def video(
    source: Annotated[Path, typer.Argument(metavar="IN", parser=path_given, help="The video that was translated.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", parser=path_given, help="Its translation.")],
    height: Annotated[
        int | None,
        typer.Option(min=16, max=8192, help="Measure at this height. Default: the lower of both, but at most 360."),
    ] = None,
    frames: Annotated[int | None, typer.Option(min=2, help="Measure only so many frames from the start.")] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.json", parser=path_given, help="Write every number as JSON.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", parser=path_given, help="Draw the numbers over time.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a report and a plot that exist.")] = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    """How steady a translated video is: flicker and warping error along the motion, beside those of the input.

    \b
    dsmap-eval video holiday.mp4 holiday-winter.mp4
    dsmap-eval video holiday.mp4 holiday-winter.mp4 --report steady.json --plot steady.png
    """
    from dsmap.tools._eval_video import Comparison, check_results, draw, measure, numbers, table

    check_results(source, output, report, plot, overwrite=overwrite)
    comparison: Comparison = measure(source, output, height=height, frames=frames)
    typer.echo(table(comparison))
    if report is not None:
        from dsmap.tools._reports import write_report

        write_report(report, numbers(comparison))
        typer.echo(f"report: {report}")
    if plot is not None:
        draw(comparison, plot)
        typer.echo(f"plot: {plot}")


def main() -> None:
    """Entry point."""
    run(app)


if __name__ == "__main__":
    main()
