"""The options that say where the images of two domains are, shared by dsmap-train and dsmap-export."""

from pathlib import Path
from typing import Annotated

import typer

from dsmap.errors import InputError
from dsmap.tools.shared.panels import INPUT, MODEL

Data = Annotated[
    Path | None, typer.Option("--data", metavar="FOLDER", help="Folder with trainA, trainB (testA, testB).")
]
DomainFolders = Annotated[
    list[str] | None,
    typer.Option("--domain", metavar="NAME=PATH", help="Images of one domain (pass it twice)."),
]
DomainNames = Annotated[
    str | None,
    typer.Option("--domains", metavar="A,B", help="Names of the two domains.", rich_help_panel=INPUT),
]

DefaultStyles = Annotated[
    list[str] | None,
    typer.Option(
        "--default-style",
        metavar="NAME=PATH",
        help="Default style: mean over these images.",
        rich_help_panel=MODEL,
    ),
]


def parse_default_styles(texts: list[str] | None) -> dict[str, Path]:
    """`--default-style`: folders by domain; InputError for anything but DOMAIN=FOLDER, once for a domain."""
    found: dict[str, Path] = {}
    for text in texts or []:
        domain, _, folder = text.partition("=")
        if not domain or not folder:
            raise InputError(
                f"--default-style {text!r} is not DOMAIN=FOLDER", "Write it like --default-style winter=photos/snowy."
            )
        if domain in found:
            raise InputError(f"--default-style is given twice for {domain}", "Give it once.")
        if not Path(folder).is_dir():
            raise InputError(f"--default-style {text}: there is no folder {folder}", "Pass a folder of images.")
        found[domain] = Path(folder)
    return found


def parse_domain_folders(texts: list[str] | None) -> list[tuple[str, Path]]:
    """(name, folder) of every NAME=PATH; InputError for anything else."""
    pairs = []
    for text in texts or []:
        name, separator, path = text.partition("=")
        if not separator or not name or not path:
            raise InputError(f"--domain {text!r} is not NAME=PATH", "Write it like --domain summer=photos/summer.")
        pairs.append((name, Path(path)))
    if len(pairs) == 2:
        _check((pairs[0][0], pairs[1][0]))
    return pairs


def parse_domain_names(text: str | None) -> tuple[str, str] | None:
    """The two names of "summer,winter"; InputError for any other number of them."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if len(names) != 2 or not all(names):
        raise InputError(f"--domains {text!r} is not two names", "Write it like --domains summer,winter.")
    _check((names[0], names[1]))
    return names[0], names[1]


def _check(names: tuple[str, str]) -> None:
    from dsmap.config.base import check_given_domains

    check_given_domains(names)
