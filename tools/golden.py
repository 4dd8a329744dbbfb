"""dsmap.tools.golden: comparison with the authors' numbers.

    python -m dsmap.tools.golden FOLDER

FOLDER holds config.yaml, gen_*.pt, dis_*.pt, tensors.npz and scalars.json written by the authors' code. Every
intermediate, output, loss and gradient norm in it is recomputed and compared; the exit code is 1 if one is off.
"""

from pathlib import Path
from typing import Annotated

import typer

from dsmap.tools.shared.cli import Debug, Version, explained, new_app, run
from dsmap.tools.shared.terminal import say

app = new_app()


@app.command(help="Compare intermediates, outputs, losses and gradient norms with the authors' numbers.")
@explained
def golden(
    folder: Annotated[Path, typer.Argument(help="Folder of golden files.")],
    failures_only: Annotated[bool, typer.Option("--failures", help="Print only failures.")] = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    from dsmap.training.golden import compare_golden

    rows = compare_golden(folder)
    say(f"{'':4} {'kind':22} {'name':52} {'expected':>12} {'error':>10} {'allowed':>10}")
    for row in rows:
        if not row.passed or not failures_only:
            verdict = "ok" if row.passed else "OFF"
            say(f"{verdict:4} {row.kind:22} {row.name:52} {row.expected:12.5g} {row.error:10.2e} {row.allowed:10.2e}")
    failed = sum(not row.passed for row in rows)
    say(f"{len(rows) - failed} of {len(rows)} within tolerance" + (f", {failed} OFF" if failed else ""))
    if failed or not rows:
        raise typer.Exit(1)


def main() -> None:
    """Entry point."""
    run(app)


if __name__ == "__main__":
    main()
