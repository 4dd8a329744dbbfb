"""Dockerfiles as data, and the build context that .dockerignore leaves, without an engine."""

import json
import re
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass
class Stage:
    """One image of a Dockerfile."""

    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)
    """(RUN, its text in one line) and so on."""

    def of(self, name: str) -> list[str]:
        """The texts of all instructions of this name."""
        return [text for instruction, text in self.instructions if instruction == name]

    @property
    def environment(self) -> dict[str, str]:
        """What ENV sets."""
        return dict(pair.split("=", 1) for text in self.of("ENV") for pair in text.split())


def health_check(image: Stage, port: int, seconds: float = 120) -> list[str]:
    """The command of HEALTHCHECK, for a server on another port, the Python that runs this, and so much patience."""
    [text] = image.of("HEALTHCHECK")
    _python, *words = json.loads(text[text.index("[") :])
    assert ":8000/" in words[-1]
    assert "timeout=4)" in words[-1]
    words[-1] = words[-1].replace(":8000/", f":{port}/").replace("timeout=4)", f"timeout={seconds})")
    return [sys.executable, *words]


class Dockerfile:
    """`stages` by name."""

    def __init__(self, path: Path) -> None:
        self.stages: dict[str, Stage] = {}
        stage = None
        lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
        for line in re.sub(r"\s*\\\n\s*", " ", "\n".join(lines)).splitlines():
            name, _, text = line.partition(" ")
            if name == "FROM":
                base, _, own = text.partition(" AS ")
                stage = self.stages[own] = Stage(base)
            elif name and stage is not None:
                stage.instructions.append((name, text))


def build_context(folder: Path) -> None:
    """Copies what an engine would send for the build: everything is left out but what .dockerignore names with a !."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    assert lines[-1] == "**/__pycache__"
    for line in lines[1:-1]:
        assert line.startswith("!"), line
        source = ROOT / line[1:]
        if source.is_dir():
            shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder)
