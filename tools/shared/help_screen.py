"""Help screens in plain text: options grouped by their panel in one column, examples at the end.

rich draws panels too, and takes a fifth of a second for it.
"""

import re
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from dsmap.tools.shared.panels import ALL_PANELS
from dsmap.tools.shared.start import importing

# An option whose name and value are longer than this gets a line of its own.
MAX_NAME_WIDTH = 28
HELP_NAMES = {"help_option_names": ["-h", "--help"]}
_COMPLETION = {"install_completion", "show_completion"}


class Command(TyperCommand):
    """A command with a help screen in panels; the lines of its `epilog` are examples."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See `TyperCommand`, which imports pydantic for it."""
        with importing():
            return list(super().parse_args(ctx, args))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then the options of each panel."""
        _write_panels(self.get_params(ctx), ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples, under the name that the user typed."""
        _write_examples(self.epilog, ctx, formatter)


class CommandGroup(TyperGroup):
    """A command of several subcommands, with the same help screen, which it also shows when called alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See `TyperGroup`."""
        alone = not args and not ctx.resilient_parsing
        return list(super().parse_args(ctx, ["--help"] if alone else args))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the subcommands, then the options of each panel."""
        self.format_commands(ctx, formatter)
        _write_panels(self.get_params(ctx), ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the subcommands with the first sentence of their help."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, _first_sentence(command.help)) for name, command in commands if command]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples, under the name that the user typed."""
        _write_examples(self.epilog, ctx, formatter)


class App(typer.Typer):
    """A typer app whose commands have these help screens."""

    def command(self, name: str | None = None, **settings: Any) -> Any:
        """See `typer.Typer.command`. `epilog`: one example a line."""
        usual: dict[str, Any] = {"cls": Command, "context_settings": HELP_NAMES}
        return super().command(name, **(usual | settings))


def _first_sentence(text: str | None) -> str:
    paragraph = " ".join((text or "").strip().partition("\n\n")[0].split())
    sentence, stop, _ = paragraph.partition(". ")
    return sentence + stop.strip()


def _write_panels(params: list[Any], ctx: Any, formatter: Any) -> None:
    """One section a panel; the second column begins at the same place in all."""
    sections: dict[str, list[tuple[str, str]]] = {name: [] for name in ("Arguments", "Options", *ALL_PANELS)}
    for param in params:
        record = param.get_help_record(ctx)
        if record is None or param.name in _COMPLETION:  # every command has these two; the docs explain them
            continue
        usual = "Arguments" if param.param_type_name == "argument" else "Options"
        name, text = record
        if usual == "Arguments":
            name = name.partition(" <")[0]
        sections[getattr(param, "rich_help_panel", None) or usual].append((name.replace(" range>", ">"), text))
    names = [name for rows in sections.values() for name, _ in rows]
    width = max((len(name) for name in names if len(name) <= MAX_NAME_WIDTH), default=0)
    for title, rows in sections.items():
        if rows:
            rows[0] = (rows[0][0].ljust(width), rows[0][1])
            with formatter.section(title):
                formatter.write_dl(rows, col_max=max(width, 1))


def _write_examples(examples: str | None, ctx: Any, formatter: Any) -> None:
    if not examples:
        return
    lines = [line.strip() for line in examples.strip().splitlines()]
    typed = ctx.command_path.partition("dsmap ")
    if typed[1]:  # `dsmap video` rather than `dsmap-video`
        lines = [line.replace("dsmap-", f"{typed[0]}dsmap ", 1) for line in lines]
    formatter.write_paragraph()
    formatter.write("Examples:\n" if len(lines) > 1 else "Example:\n")
    for line in lines:
        formatter.write("".join(f"{part}\n" for part in _continued(line, formatter.width)))


def _continued(line: str, width: int) -> list[str]:
    """A line of shell, indented, in parts of at most `width` columns joined by backslashes.

    An option stays with its value.
    """
    parts = ["  "]
    for word in re.findall(r"-[\w-]+ [^-\s]\S*|(?:'[^']*'|\S)+", line):
        begun = parts[-1].strip()
        if begun and len(parts[-1]) + 1 + len(word) + 2 > width:
            parts[-1] += " \\"
            parts.append(" " * 6 + word)
        else:
            parts[-1] += f" {word}" if begun else word
    return parts
