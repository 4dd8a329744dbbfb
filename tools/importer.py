"""dsmap-import: generators that trainers of CycleGAN and MUNIT wrote become a bundle.

dsmap-import latest_net_G_A.pth latest_net_G_B.pth --domains horse,zebra -o horse-zebra
dsmap-import horse2zebra.pth --domains horse,zebra -o to-zebra --fp16
dsmap-import gen_01000000.pt --domains edges,shoes -o edges-shoes --data edges2shoes
"""

from pathlib import Path
from typing import Annotated

import typer

from dsmap.errors import InputError
from dsmap.tools.shared.cli import Debug, Version, explained, new_app, run
from dsmap.tools.shared.images import Data, parse_domain_names
from dsmap.tools.shared.panels import MODEL, OUTPUT
from dsmap.tools.shared.terminal import say

app = new_app()


@app.command(
    help="""Turn generators of another trainer into a bundle.

    For ResNet generators of CycleGAN (pytorch-CycleGAN-and-pix2pix): latest_net_G_A.pth of a run, or a
    published latest_net_G.pth. Such a model has no styles. And for MUNIT: gen_01000000.pt, which has both
    directions; --data gives its default styles. Nothing in a checkpoint is run.
    """,
    epilog="""
    dsmap-import latest_net_G_A.pth latest_net_G_B.pth --domains horse,zebra -o horse-zebra
    dsmap-import horse2zebra.pth --domains horse,zebra -o to-zebra --fp16
    dsmap-import gen_01000000.pt --domains edges,shoes -o edges-shoes --data edges2shoes
    """,
)
@explained
def import_(
    checkpoints: Annotated[
        list[Path],
        typer.Argument(
            metavar="GENERATOR [BACK]",
            help="The generator from the first domain to the second, and the one back if there is one; "
            "of a MUNIT the one file with both.",
        ),
    ],
    domains: Annotated[str, typer.Option(metavar="A,B", help="Names of the two domains.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="BUNDLE", help="The bundle's folder.")],
    fp16: Annotated[bool, typer.Option("--fp16", help="Also write graphs in half precision, for GPUs.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Also write int8 graphs, for CPUs; needs --data.")] = False,
    data: Data = None,
    size: Annotated[
        int,
        typer.Option(metavar="PIXELS", help="Shorter side of the training images.", rich_help_panel=MODEL),
    ] = 256,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the model (default: the folder's).", rich_help_panel=MODEL),
    ] = None,
    licence: Annotated[
        str, typer.Option(metavar="NAME", help="Licence of the weights.", rich_help_panel=MODEL)
    ] = "not stated",
    dataset: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="What it was trained on (repeatable).", rich_help_panel=MODEL),
    ] = None,
    card: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Model card, Markdown.", rich_help_panel=MODEL)
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Keep a precision that fails its check.", rich_help_panel=OUTPUT),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing bundle.", rich_help_panel=OUTPUT)
    ] = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    from dsmap.export.import_request import ImportRequest

    names = parse_domain_names(domains)
    if names is None:
        raise InputError("--domains is empty", "Write it like --domains summer,winter.")
    request = ImportRequest(
        checkpoints=checkpoints,
        domains=names,
        out=output,
        size=size,
        data=data,
        fp16=fp16,
        int8=int8,
        force=force,
        name=name,
        licence=licence,
        datasets=dataset or [],
        card=card,
        overwrite=overwrite,
    )
    from dsmap.export.import_run import import_model
    from dsmap.runtime.bundle.bundled import as_model

    import_model(request, say=say)
    say(f"next: dsmap-video INPUT --model {as_model(output)} --domain {names[1]}")


def main() -> None:
    """Entry point."""
    run(app)


if __name__ == "__main__":
    main()
