"""The front door: `dsmap VERB ...` runs `dsmap-VERB ...`, and `dsmap` alone lists the verbs.

Only the module of the verb that was asked for is loaded.
"""

import importlib
import os
import sys
from typing import Annotated, Any

VERBS = {
    "video": "Translate videos, images, or folders of them.",
    "live": "Translate a camera in real time.",
    "web": "Turn a model into a web page that translates in the browser.",
    "serve": "Serve a web page and an HTTP API for translation.",
    "train": "Train a translation between two domains of unpaired images.",
    "polish": "Fine-tune a trained model's decoders to remove artefacts.",
    "distill": "Train a smaller network to imitate a trained one.",
    "export": "Export a checkpoint as a bundle of ONNX files.",
    "import": "Turn generators of CycleGAN or MUNIT into a bundle.",
    "models": "List, fetch and share models.",
    "eval": "Measure image quality, fidelity and flicker.",
    "bench": "Benchmark training, models, video and live translation.",
    "doctor": "Check the installation and show how to fix it.",
}
_MODULES = {"import": "importer"}
"""Of verbs that Python does not take for the name of a module."""
EXAMPLES = """
dsmap video holiday.mp4 --domain winter
dsmap video --help
"""


def main() -> None:
    """Entry point."""
    program = "python -m dsmap" if os.path.basename(sys.argv[0]) == "__main__.py" else "dsmap"
    completing = f"_{program.upper()}_COMPLETE" in os.environ
    if wanted := _completion_option(sys.argv[1:]):
        sys.argv[1:] = wanted
        _run_group("dsmap")
    elif len(sys.argv) > 1 and sys.argv[1] in VERBS and not completing:
        verb = sys.argv[1]
        sys.argv[:2] = [f"{program} {verb}"]  # what usage lines and errors name
        verb_module(verb).main()
    else:
        _run_group(program)


def _completion_option(words: list[str]) -> list[str]:
    """The option of a command line that asks for completion, with its value if any.

    The script of `dsmap` completes the verbs and their options too; one for "dsmap video" would not be valid.
    """
    for i, word in enumerate(words):
        if word.partition("=")[0] in ("--install-completion", "--show-completion"):
            return [word, *(value for value in words[i + 1 : i + 2] if not value.startswith("-"))]
    return []


def verb_module(verb: str) -> Any:
    """The module of a verb's command."""
    return importlib.import_module(f"dsmap.tools.{_MODULES.get(verb, verb)}")


def _run_group(program: str) -> None:
    """Help, `--version`, completion for shells, and errors about verbs."""
    import typer

    from dsmap.tools.shared.cli import VERSION, new_app, run
    from dsmap.tools.shared.help_screen import CommandGroup

    class Verbs(CommandGroup):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self.commands = dict.fromkeys(VERBS, typer.core.TyperCommand(None))  # the names, for "did you mean"

        def get_command(self, ctx: Any, name: str) -> Any:
            return typer.main.get_command(verb_module(name).app) if name in VERBS else None

        def format_commands(self, ctx: Any, formatter: Any) -> None:
            with formatter.section("Commands"):
                formatter.write_dl(list(VERBS.items()))

    app = new_app(
        cls=Verbs,
        help="Unpaired image translation, from training to real-time video.",
        epilog=EXAMPLES,
    )

    @app.callback()
    def dsmap(version: Annotated[bool, typer.Option("--version", **VERSION)] = False) -> None:
        pass

    sys.argv = [program, *(sys.argv[1:] or ["--help"])]
    run(app)
