"""dsmap-export: a checkpoint becomes a bundle that dsmap-video runs.

dsmap-export RUN -o BUNDLE
dsmap-export gen_00200000.pt --official config.yaml --domains summer,winter -o BUNDLE
"""

import time
from pathlib import Path
from typing import Annotated

import typer

from dsmap.errors import InputError
from dsmap.tools._cli import Debug, Version, explained, new_app, run
from dsmap.tools._pictures import Data, DomainFolders, DomainNames, parse_domain_folders, parse_domain_names

app = new_app()


@app.command()
@explained
def export(
    checkpoint: Annotated[
        Path, typer.Argument(help="Run folder of dsmap-train, one of its checkpoints, or a gen_*.pt.")
    ],
    out: Annotated[Path, typer.Option("--output", "-o", help="The bundle's folder.")],
    official: Annotated[
        Path | None,
        typer.Option("--official", metavar="CONFIG.yaml", help="CHECKPOINT is the authors', with this YAML."),
    ] = None,
    domains: DomainNames = None,
    data: Data = None,
    domain: DomainFolders = None,
    live: Annotated[
        bool, typer.Option("--live", help="Export the live weights instead of their moving average.")
    ] = False,
    best: Annotated[
        bool, typer.Option("--best", help="Of a run folder the checkpoint with the best score, not the latest.")
    ] = False,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="REWRITE", help="Leave a rewrite out: upsampling, tail or scaling. May be repeated."),
    ] = None,
    fused: Annotated[
        bool, typer.Option("--fused", help="Add a graph that holds encoder, mapping and decoder at once.")
    ] = False,
    style_decoder: Annotated[
        bool, typer.Option("--style-decoder", help="Add decoders that take the style code itself.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="The model's name. Default: the bundle folder's name.")] = None,
    licence: Annotated[str, typer.Option(help="Licence of the weights, for the card.")] = "not stated",
    card: Annotated[
        Path | None, typer.Option(metavar="FILE.md", help="Model card, in place of the short default.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the bundle that is there.")] = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    """Write a bundle of ONNX files from CHECKPOINT, checked against torch.

    With --data or --domain NAME=PATH the default styles are the means over those pictures and the check uses them.
    """
    text = _read_card(card)
    names = parse_domain_names(domains)
    folders = parse_domain_folders(domain)
    if names is not None and official is None:
        raise InputError("--domains names the domains of an --official checkpoint; this one has names", "Leave it out.")
    if official is None and checkpoint.suffix == ".pt":
        raise InputError(f"{checkpoint} is a .pt file", "Pass --official CONFIG.yaml with an authors' checkpoint.")
    if best and (official is not None or not (checkpoint / "checkpoints").is_dir()):
        raise InputError(f"--best picks from a run folder; {checkpoint} is none", "Leave it out, or pass RUN.")
    from dsmap.export.output import check_bundle_folder

    check_bundle_folder(out, overwrite=overwrite)
    left_out = _parse_rewrites(without or [])
    started = time.monotonic()
    typer.echo("loading torch ...")
    from dsmap.data import find_domains
    from dsmap.export.exporter import export_bundle, open_checkpoint, open_official
    from dsmap.export.graphs import ALL_REWRITES, Extras

    if official is not None:
        pictures = find_domains(data, folders, names=names or ("a", "b")) if data or folders else None
        names = names or ((pictures.a.name, pictures.b.name) if pictures else ("a", "b"))
        source = open_official(checkpoint, official, names, pictures)
    else:
        if best:
            from dsmap.checkpoint import best_checkpoint

            checkpoint = best_checkpoint(checkpoint).path
            typer.echo(f"best: {checkpoint}")
        source = open_checkpoint(checkpoint, weights="generators" if live else "ema", data=data, folders=folders)
    manifest, verification = export_bundle(
        source,
        out,
        name=name,
        licence=licence,
        card=text,
        overwrite=overwrite,
        rewrites=ALL_REWRITES._replace(**dict.fromkeys(left_out, False)),
        extras=Extras(fused=fused, style_decoder=style_decoder),
        say=typer.echo,
    )
    for check in verification.checks:
        typer.echo(f"  {check.name:36} max error {check.max_error:9.2e}   PSNR {check.psnr:6.1f} dB")
    for style_domain, style in manifest.styles.items():
        if style.pictures == 0:
            typer.echo(f"default style of {style_domain}: the prior's mean; pass --data for that of its pictures")
    megabytes = sum(file.bytes for file in manifest.components.files()) / 1e6
    typer.echo(f"done in {time.monotonic() - started:.0f} s, saved as {out} ({megabytes:.1f} MB)")
    typer.echo(f"next: dsmap-video INPUT --model {out} --domain {manifest.domains[1]}")


_REWRITES = ("upsampling", "tail", "scaling")


def _parse_rewrites(names: list[str]) -> set[str]:
    """The rewrites to leave out. The tail's reads what the upsampling's leaves."""
    for name in names:
        if name not in _REWRITES:
            raise InputError(f"no rewrite named {name!r}", f"Known rewrites: {', '.join(_REWRITES)}.")
    return {*names, *({"tail"} if "upsampling" in names else ())}


def _read_card(card: Path | None) -> str | None:
    if card is None:
        return None
    try:
        return card.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the model card {card}: {error}", "Pass --card a text file.") from error


def main() -> None:
    """Entry point."""
    run(app)


if __name__ == "__main__":
    main()
