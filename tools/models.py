"""`dsmap-models`: models of the package, of the user's cache and of the Hugging Face Hub.

    dsmap-models list
    dsmap-models pull hf:owner/name
    dsmap-models show hf:owner/name

Nothing heavy is imported at the top: `--help` must be quick.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsmap.tools.shared.cli import Debug, Version, explained, new_app, path_given, run, text_given
from dsmap.tools.shared.progress import bar
from dsmap.tools.shared.terminal import note, say

if TYPE_CHECKING:
    from dsmap.runtime.hub.facts import ModelFacts

_EXAMPLES = """
dsmap-models list
dsmap-models show summer-winter
dsmap-models pull hf:OWNER/NAME
dsmap-video holiday.mp4 --model hf:OWNER/NAME --domain winter
"""
app = new_app(
    help="List, show, fetch, check and remove models; share your own.",
    epilog=_EXAMPLES,
)


def main() -> None:
    """Entry point of the command."""
    run(app)


ModelName = Annotated[
    str, typer.Argument(metavar="MODEL", parser=text_given, help="Model name, folder, or hf:OWNER/NAME[@REVISION].")
]
HubName = Annotated[
    str, typer.Argument(metavar="MODEL", parser=text_given, help="hf:OWNER/NAME[@REVISION], or a known name.")
]
JsonReport = Annotated[
    Path | None, typer.Option("--report", metavar="FILE", parser=path_given, help="Write the same as JSON.")
]
ReplaceReport = Annotated[bool, typer.Option("--overwrite", help="Replace an existing report.")]


@app.callback()
def _models(version: Version = False) -> None:
    pass


@app.command("list", help="List the models that have a name, and those that were pulled.", epilog="dsmap-models list")
@explained
def list_command(report: JsonReport = None, overwrite: ReplaceReport = False, debug: Debug = False) -> None:
    from dsmap.runtime.hub.facts import list_models

    _check_report(report, overwrite)
    rows = list_models()
    width = max((len(row.name) for row in rows), default=0)
    for row in rows:
        size = "?" if row.bytes is None else f"{row.bytes / 1e6:.1f} MB"
        domains = "" if row.domains is None else _direction(row.domains, row.targets or ())
        say(f"{row.name:<{width}}  {row.place:<10}  {size:>9}  {domains}".rstrip())
        for line in filter(None, (row.about, row.commit and f"commit {row.commit}")):
            say(f"    {line}")
    _write(report, {"models": [vars(row) for row in rows]})


@app.command(
    help="Tell what a model does, what it needs, where it comes from and under which licence. Nothing is pulled.",
    epilog="dsmap-models show hf:OWNER/NAME",
)
@explained
def show(model: ModelName, report: JsonReport = None, overwrite: ReplaceReport = False, debug: Debug = False) -> None:
    from dsmap.runtime.hub.facts import describe_model

    _check_report(report, overwrite)
    facts = describe_model(model)
    for title, text in _lines(facts):
        say(f"{title:<9} {text}")
    say("")
    say(*_without_head(facts.card).splitlines())
    _write(report, facts.as_dict())


@app.command(
    help="Fetch a model from the Hugging Face Hub into your cache, or a newer commit of it, and check it.",
    epilog="dsmap-models pull hf:OWNER/NAME\ndsmap-models pull hf:OWNER/NAME@v2 --limit 4",
)
@explained
def pull(
    model: HubName,
    limit: Annotated[float, typer.Option("--limit", metavar="GB", min=0.001, help="Refuse a larger model.")] = 1.0,
    debug: Debug = False,
) -> None:
    from dsmap.runtime.hub.models import address_of
    from dsmap.runtime.hub.pull import pull as pull_model

    address, sha256 = address_of(model)
    with bar(count=False, text=True) as drawn:
        if drawn is not None:
            drawn.begin(total=None)

        def progress(have: int, total: int) -> None:
            if drawn is not None:
                drawn.update(have, total=total, text=f"{have / 1e6:.1f} of {total / 1e6:.1f} MB")

        pulled = pull_model(
            address,
            bundle_sha256=sha256,
            limit=int(limit * 1e9),
            say=say if drawn is None else drawn.say,
            progress=progress,
        )
    say(
        f"{pulled.pinned}: {pulled.folder}",
        f"next: dsmap-video INPUT --model {model} --domain {_target(pulled.folder)}",
    )


@app.command(
    help="Share a bundle on the Hugging Face Hub, in one commit. Its card has to state a licence and the data.",
    epilog="dsmap-models push my-model hf:OWNER/NAME --dry-run\ndsmap-models push my-model hf:OWNER/NAME --private",
)
@explained
def push(
    model: Annotated[str, typer.Argument(metavar="MODEL", parser=text_given, help="Folder of the bundle, or a name.")],
    to: Annotated[str, typer.Argument(metavar="ADDRESS", parser=text_given, help="hf:OWNER/NAME.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go up; send nothing.")] = False,
    private: Annotated[bool, typer.Option("--private", help="For you alone, if it is new.")] = False,
    debug: Debug = False,
) -> None:
    from dsmap.runtime.bundle.bundled import find_model
    from dsmap.runtime.hub.address import parse_address
    from dsmap.runtime.hub.push import plan_push
    from dsmap.runtime.hub.push import push as push_model

    plan = plan_push(find_model(model), parse_address(to))
    if dry_run:
        for path, size in plan.files.items():
            say(f"{size / 1e6:>9.3f} MB  {path}")
        for path in plan.left_out:
            say(f"stays here    {path}")
        say(f"{plan.bytes / 1e6:.1f} MB would go to {plan.address}; README.md:", "", *plan.card.splitlines())
        return
    pushed = push_model(plan, private=private, say=say)
    say(f"{pushed.pinned}: {pushed.url}", f"next: dsmap-models show {plan.address}")


@app.command(
    help="Check every file of a model: sizes, hashes, and that its graphs are nothing but graphs.",
    epilog="dsmap-models verify summer-winter",
)
@explained
def verify(model: ModelName, debug: Debug = False) -> None:
    from dsmap.runtime.hub.facts import verify_model

    bundle = verify_model(model)
    files = {file.path: file.bytes for file in bundle.manifest.files()}
    say(f"{model}: {len(files)} files, {sum(files.values()) / 1e6:.1f} MB, all as bundle.json says")


@app.command(
    help="Remove a pulled model from your cache; without a revision, all its commits. Folders of yours stay.",
    epilog="dsmap-models remove hf:OWNER/NAME",
)
@explained
def remove(model: HubName, debug: Debug = False) -> None:
    from dsmap.runtime.hub.models import remove_model

    removed = remove_model(model)
    for one in removed:
        say(f"removed {one.pinned}, {one.bytes / 1e6:.1f} MB")
    if not removed:
        say(f"removed what an interrupted pull of {model} had left")


def _lines(facts: "ModelFacts") -> list[tuple[str, str]]:
    """The facts in the order of the screen."""
    where = {"package": "comes with dsmap", "folder": f"{facts.folder}", "cache": f"pulled, {facts.folder}",
             "hub": "not pulled"}[facts.place]  # fmt: skip
    styles = [f"{name} ({domain})" for domain, names in facts.styles.items() for name in names]
    lines = [
        ("model", facts.name),
        ("domains", _direction(facts.domains, facts.targets)),
        ("size", f"{facts.bytes / 1e6:.1f} MB in {', '.join(facts.precisions)}"),
        (
            "speed",
            f"{facts.speed}: {_good_for(facts.speed)} (about {facts.multiply_adds:g} G multiply-adds at 256x256)",
        ),
        ("trained", f"at a shorter side of {facts.trained_at} pixels"),
        (
            "styles",
            ", ".join(styles) or ("none with a name" if facts.has_styles else "none: one translation of a frame"),
        ),
        ("refiner", " and ".join(f"to {domain}" for domain in facts.refines_to) or "none"),
        ("licence", facts.licence),
        ("data", ", ".join(facts.datasets) or "not named"),
        ("origin", facts.origin),
        ("place", where),
    ]
    if facts.source is not None:
        lines.append(("source", f"{facts.source} on {facts.endpoint}"))
    lines += [("picture", str(facts.folder / path) if facts.folder else path) for path in facts.pictures]
    return lines


def _direction(domains: tuple[str, str], targets: tuple[str, ...]) -> str:
    """The domains with the way that it translates: both ways, or one."""
    a, b = domains
    return f"{a} <-> {b}" if len(targets) != 1 else f"{b if targets[0] == a else a} -> {targets[0]}"


def _good_for(speed: str) -> str:
    from dsmap.runtime.hub.facts import SPEEDS

    return next(good_for for _, name, good_for in SPEEDS if name == speed)


def _without_head(card: str) -> str:
    """A card without its YAML head, which is for machines."""
    _, _, rest = card.removeprefix("---\n").partition("\n---\n")
    return (rest if card.startswith("---\n") and rest else card).strip()


def _target(folder: Path) -> str:
    from dsmap.runtime.bundle.manifest import read_manifest

    return read_manifest(folder).targets[-1]


def _check_report(report: Path | None, overwrite: bool) -> None:
    from dsmap.common.output_files import check_outputs

    check_outputs({"--report": report}, [], overwrite=overwrite)


def _write(report: Path | None, tree: dict[str, object]) -> None:
    if report is None:
        return
    from dsmap.common.reports import write_report

    write_report(report, tree)
    note(f"report: {report}")


if __name__ == "__main__":
    main()
