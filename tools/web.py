"""`dsmap-web`: turn a bundle into a web page that translates in the visitor's browser.

    dsmap-web summer-winter -o site --serve
    dsmap-web my-bundle -o site --domain winter

Nothing heavy is imported at the top: `--help` must be quick.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsmap.errors import InputError
from dsmap.tools.shared import cli
from dsmap.tools.shared.panels import ADVANCED, MODEL
from dsmap.tools.shared.terminal import note, say

if TYPE_CHECKING:
    from dsmap.runtime.web.site import WrittenSite

app = cli.new_app()


def main() -> None:
    """Entry point of the command."""
    cli.run(app)


@app.command(
    help="""Turn a model into a web page that translates in the visitor's browser.

    The folder can be put on any web host; nothing is computed there, and no image leaves the visitor's machine.
    """,
    epilog="dsmap-web summer-winter -o site --serve\ndsmap-web my-bundle -o site --domain winter",
)
@cli.explained
def web(
    bundle: Annotated[
        str, typer.Argument(metavar="BUNDLE", parser=cli.text_given, help="Name, folder or hf:OWNER/NAME.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", parser=cli.path_given, help="Folder of the site.")
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing site.")] = False,
    serve: Annotated[bool, typer.Option("--serve", help="Serve the site on this machine.")] = False,
    port: Annotated[
        int | None,
        typer.Option("--port", metavar="N", min=0, max=65535, help="Port for --serve (default: 8000; 0: any)."),
    ] = None,
    domain: Annotated[
        list[str] | None,
        typer.Option(
            "--domain",
            "-d",
            metavar="NAME",
            parser=cli.text_given,
            help="Only translate to this domain; repeatable.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    runtime: Annotated[
        Path | None,
        typer.Option(
            "--runtime",
            metavar="FOLDER",
            parser=cli.path_given,
            help="Unpacked npm packages to use, instead of fetching them.",
            rich_help_panel=ADVANCED,
        ),
    ] = None,
    debug: cli.Debug = False,
    version: cli.Version = False,
) -> None:
    if port is not None and not serve:
        raise InputError("--port is for --serve", "Add --serve.")
    from dsmap.runtime.bundle.bundle import Bundle
    from dsmap.runtime.bundle.bundled import find_model
    from dsmap.runtime.web.site import SiteRequest, build_site

    request = SiteRequest(
        bundle=Bundle.open(find_model(bundle)),
        out=output,
        targets=tuple(domain or ()),
        overwrite=overwrite,
        runtime=runtime,
    )
    _say_what_was_written(build_site(request, note))
    if serve:
        _serve(output, 8000 if port is None else port)
    else:
        say("Put it on any web host, or look at it here with --overwrite --serve.")


def _say_what_was_written(site: "WrittenSite") -> None:
    kept = f" ({site.new_bytes / 1e6:.1f} MB new)" if site.new_bytes < site.bytes else ""
    say(f"{site.folder}: {site.bytes / 1e6:.1f} MB{kept}, of which a visitor loads what the browser needs:")
    say(f"{site.first_visit / 1e6:.1f} MB of the model for a direction, 4 to 7 MB (compressed) to run it.")


def _serve(folder: Path, port: int) -> None:
    """Serves until Ctrl-C, which is the usual end."""
    from dsmap.runtime.web.static_server import SiteServer

    with SiteServer(folder, port) as server:
        say(f"{server.address} (Ctrl-C stops it)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say()
