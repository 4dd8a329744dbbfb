"""MkDocs hooks: help screens of the commands, the code as one package, links to files outside docs/."""

import os
import posixpath
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
API = ROOT / "build" / "api" / "dsmap"
_COMMANDS = "<!-- help screens -->"


def on_startup(command, dirty):
    """Lay the four folders out as the package they become, for mkdocstrings."""
    shutil.rmtree(API, ignore_errors=True)
    shutil.copytree(ROOT / "dsmap", API)
    for name in ("export", "runtime", "tools"):
        shutil.copytree(ROOT / name, API / name, ignore=shutil.ignore_patterns("models", "assets"))


def on_page_markdown(markdown, page, config, files):
    """Insert help screens; let links to files outside docs/ lead to the repository."""
    if _COMMANDS in markdown:
        markdown = markdown.replace(_COMMANDS, help_screens())
    folder = posixpath.dirname(page.file.src_uri)

    def outside(match):
        path = posixpath.normpath(posixpath.join("docs", folder, match[1]))
        return match[0] if path.startswith("docs/") else f"]({config.repo_url}/blob/main/{path})"

    return re.sub(r"\]\((\.\./[^)#]+)\)", outside, markdown)


def help_screens():
    """A section for every command, with what `--help` shows."""
    from dsmap.tools.main import VERBS

    sections = []
    for verb in VERBS:
        screen = help_screen(verb)
        sections.append(f"## dsmap {verb}\n\n```text\n{screen}```\n")
        commands = re.search(r"^Commands:\n((?:  .*\n)+)", screen, re.MULTILINE)
        for name in re.findall(r"^  (\w\S*)", commands[1] if commands else "", re.MULTILINE):
            sections.append(f"### dsmap {verb} {name}\n\n```text\n{help_screen(verb, name)}```\n")
    return "\n".join(sections)


def help_screen(*words):
    """What `dsmap WORDS --help` prints on a terminal of 80 columns."""
    command = [sys.executable, "-c", "from dsmap.tools.main import main; main()", *words, "--help"]
    environment = {**os.environ, "COLUMNS": "80"}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
