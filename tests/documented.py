"""The code blocks of README.md and docs/, and the shell statements in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")))
_FENCE = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_LOOP, _LOOP_END = re.compile(r"^\s*(while|for|until)\b|; *(while|for) "), re.compile(r"^\s*done\b|; *done\b")
_ASSIGNED = re.compile(r"([A-Za-z_]\w*)=")
_OPERATORS = {";", "&&", "||", "|", "&", "(", ")"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `line` is that of its first line, counted from 1."""

    page: str
    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Statement:
    """What a shell runs at once: a line, or several that belong together."""

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


@cache
def page_text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    text = page_text(page)
    return [Block(page, text.count("\n", 0, found.start(3)) + 1, found[2], found[3]) for found in _FENCE.finditer(text)]


def without_blocks(page: str) -> str:
    """The text of a page between its fenced blocks."""
    return _FENCE.sub("\n", page_text(page))


def statements(block: Block) -> Iterator[Statement]:
    """The statements of a shell block; lines that are comments alone are left out."""
    pending: list[str] = []
    begun = block.line
    for number, line in enumerate(block.text.splitlines(), start=block.line):
        if not pending and (not line.strip() or line.lstrip().startswith("#")):
            continue
        begun = begun if pending else number
        pending.append(line)
        if _is_whole(text := "\n".join(pending)):
            yield Statement(block.page, begun, text)
            pending = []
    assert not pending, f"{block.page}:{begun}: a statement without an end"


def _is_whole(text: str) -> bool:
    lines = text.splitlines()
    heredoc = re.search(r"<<-? *['\"]?(\w+)", text)
    if lines[-1].endswith("\\") or (heredoc and heredoc[1] not in map(str.strip, lines[1:])):
        return False
    if sum(bool(_LOOP.search(line)) for line in lines) > sum(bool(_LOOP_END.search(line)) for line in lines):
        return False
    try:
        shlex.split(text, comments=True)
    except ValueError:  # a quotation goes on
        return False
    return True


def shell_statements(page: str) -> list[Statement]:
    return [one for block in blocks(page) if block.language == "sh" for one in statements(block)]


def simple_commands(texts: list[str]) -> Iterator[tuple[str, list[str]]]:
    """(statement, words) of every single command, with the variables that earlier statements have set."""
    variables: dict[str, str] = {}
    for text in texts:
        for words in _split(_expanded(text, variables)):
            while words and _ASSIGNED.match(words[0]):
                name, _, value = words.pop(0).partition("=")
                variables[name] = value
            if words and words[0] == "export":
                variables |= dict(word.split("=", 1) for word in words[1:] if "=" in word)
            if words:
                yield text, words


def _expanded(text: str, variables: dict[str, str]) -> str:
    """`text` on one line, with the values of variables; those that are not known, and `$(...)`, become VALUE."""
    joined = re.sub(r"<<.*", "", text.replace("\\\n", " "), flags=re.DOTALL)
    joined = re.sub(r"\$\([^()]*(\([^()]*\)[^()]*)*\)", "VALUE", joined)
    return re.sub(r"\$\{?(\w+)\}?", lambda found: variables.get(found[1], "VALUE"), joined)


def _split(text: str) -> Iterator[list[str]]:
    words: list[str] = []
    skip = False
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    for word in lexer:
        if word in _OPERATORS:
            yield words
            words = []
        elif skip:
            skip = False
        elif set(word) <= set("<>&"):
            skip = True
        else:
            words.append(word)
    yield words


def dsmap_arguments(words: list[str]) -> tuple[str, list[str]] | None:
    """(verb, its arguments) of a command line that runs dsmap, whatever it is started by; None for other programs."""
    for place, word in enumerate(words):
        if word == "dsmap":
            return (words[place + 1] if len(words) > place + 1 else "", words[place + 2 :])
        if found := re.fullmatch(r"dsmap-(\w+)", word):
            return found[1], words[place + 1 :]
        if place and words[place - 1] == "-m" and (found := re.fullmatch(r"dsmap\.tools\.(\w+)", word)):
            return found[1], words[place + 1 :]
    return None
