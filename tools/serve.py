"""`dsmap-serve`: the web page and an HTTP API in front of this machine.

    dsmap-serve                                                          # http://127.0.0.1:8000
    DSMAP_TOKEN=$(openssl rand -hex 16) dsmap-serve --host 0.0.0.0 --model my-model

Nothing heavy is imported at the top: `--help` must be quick.
"""

import signal
from pathlib import Path
from typing import Annotated

import typer

from dsmap.tools.shared import cli
from dsmap.tools.shared.panels import LIMITS
from dsmap.tools.shared.terminal import note, say

app = cli.new_app()

_MB, _GB = 1 << 20, 1 << 30


def main() -> None:
    """Entry point of the command."""
    cli.run(app)


@app.command(
    help="""Serve the web page and an HTTP API for images, videos and live translation.

    Only this machine can reach it, unless --host and a token are passed.
    """,
    epilog="dsmap-serve --model my-model\ncurl --data-binary @summer.jpg "
    "'127.0.0.1:8000/v1/images?domain=winter' -o winter.png",
)
@cli.explained
def serve(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME",
            parser=cli.text_given,
            help="Name, folder, or hf:OWNER/NAME on the Hugging Face Hub.",
        ),
    ] = "summer-winter",
    host: Annotated[
        str,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            parser=cli.text_given,
            envvar="DSMAP_LISTEN_HOST",
            show_envvar=False,
            help="Listen on this address.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            "--port",
            metavar="N",
            min=0,
            max=65535,
            envvar="DSMAP_LISTEN_PORT",  # not DSMAP_PORT, which Kubernetes sets to an address beside a service "dsmap"
            show_envvar=False,
            help="Listen on this port; 0: any free one.",
        ),
    ] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            metavar="TEXT",
            parser=cli.text_given,
            envvar="DSMAP_TOKEN",
            show_envvar=False,
            help="What clients must know; better in the variable DSMAP_TOKEN.",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            metavar="FILE",
            parser=cli.path_given,
            envvar="DSMAP_TOKEN_FILE",
            show_envvar=False,
            help="Read the token from a file.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            parser=cli.text_given,
            help="A name that the server is reached by; repeatable.",
        ),
    ] = None,
    sessions: Annotated[
        int, typer.Option("--sessions", metavar="N", min=1, max=64, help="Live viewers and images at once.")
    ] = 2,
    max_upload: Annotated[
        int, typer.Option("--max-upload", metavar="MB", min=1, help="Size of a video.", rich_help_panel=LIMITS)
    ] = 2048,
    max_megapixels: Annotated[
        float,
        typer.Option("--max-megapixels", metavar="N", min=0.01, help="Of an image or frame.", rich_help_panel=LIMITS),
    ] = 40,
    max_minutes: Annotated[
        float, typer.Option("--max-minutes", metavar="N", min=0.01, help="Length of a video.", rich_help_panel=LIMITS)
    ] = 30,
    max_jobs: Annotated[
        int, typer.Option("--max-jobs", metavar="N", min=1, help="Videos waiting and running.", rich_help_panel=LIMITS)
    ] = 8,
    max_disk: Annotated[
        float,
        typer.Option(
            "--max-disk", metavar="GB", min=0.01, help="All uploads and results together.", rich_help_panel=LIMITS
        ),
    ] = 20,
    keep_minutes: Annotated[
        float,
        typer.Option("--keep-minutes", metavar="N", min=0.01, help="Keep results this long.", rich_help_panel=LIMITS),
    ] = 60,
    backend: cli.Backend = "auto",
    precision: cli.Precision = "auto",
    cuda_binding: cli.CudaBinding = "auto",
    trust_engines: cli.TrustEngines = False,
    debug: cli.Debug = False,
    version: cli.Version = False,
) -> None:
    from dsmap.runtime.bundle.bundle import Bundle
    from dsmap.runtime.bundle.bundled import find_model
    from dsmap.runtime.serve.request import ServeLimits, ServeRequest, read_token

    request = ServeRequest(
        bundle=Bundle.open(find_model(model)),
        host=host,
        port=port,
        token=read_token(token, token_file),
        allow_hosts=tuple(allow_host or ()),
        sessions=sessions,
        backend=backend,
        precision=precision,
        cuda_binding=cuda_binding,
        trust_engines=trust_engines,
        limits=ServeLimits(
            video_bytes=max_upload * _MB,
            pixels=int(max_megapixels * 1_000_000),
            video_seconds=max_minutes * 60,
            jobs=max_jobs,
            disk_bytes=int(max_disk * _GB),
            keep_seconds=keep_minutes * 60,
        ),
    )
    from dsmap.runtime.serve.run import run_server

    def ready(address: str) -> None:
        say(f"{request.bundle.manifest.name}: {address}", "Ctrl-C stops the server.")
        if request.token is not None:
            say(f"the page: {address}/#token=...  (with your token)")

    if run_server(request, on_ready=ready, notify=note) == signal.SIGINT:
        raise typer.Exit(130)


if __name__ == "__main__":
    main()
