"""`dsmap VERB`: the same commands as `dsmap-VERB`, by one name."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from dsmap.tools.main import VERBS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def door(tmp_path):
    """Runs `dsmap` as installed, or as `python -m dsmap`."""
    script = tmp_path / "dsmap"
    script.write_text("from dsmap.tools.main import main\nmain()\n")

    def run(*words, as_module=False, code=0, **variables):
        command = [sys.executable, *(["-m", "dsmap"] if as_module else [str(script)]), *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ | variables)
        assert done.returncode == code, done.stderr
        return done.stderr if code else done.stdout

    return run


def test_every_command_is_a_verb():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert {f"dsmap-{verb}" for verb in VERBS} | {"dsmap"} == set(scripts)


def test_alone_it_lists_the_verbs_on_one_line_each(door):
    screen = door()
    lines = screen.splitlines()
    for verb, text in VERBS.items():
        assert f"  {verb.ljust(7)}  {text}" in lines
    assert max(map(len, lines)) < 80
    assert screen == door("--help")
    assert screen.replace("Usage: dsmap", "Usage: python -m dsmap") == door(as_module=True)


def test_only_the_module_of_the_verb_is_loaded(tmp_path):
    code = (
        "import sys\nfrom dsmap.tools.main import main\nsys.argv = ['dsmap', *WORDS]\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted(name for name in sys.modules if name.count('.') == 2 and name.startswith('dsmap.tools.')))"
    )
    for words in ([], ["video", "--help"]):
        command = [sys.executable, "-c", code.replace("WORDS", repr(words))]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        loaded = eval(done.stdout.splitlines()[-1])
        assert set(loaded) == {"dsmap.tools.main", "dsmap.tools.shared", *(f"dsmap.tools.{verb}" for verb in words[:1])}


@pytest.mark.parametrize("as_module", [False, True])
def test_usage_errors_and_examples_name_what_was_typed(door, as_module):
    typed = "python -m dsmap" if as_module else "dsmap"
    screen = door("train", "--help", as_module=as_module)
    assert screen.startswith(f"Usage: {typed} train [OPTIONS]")
    assert f"\n  {typed} train --data" in screen
    assert f"\nSee {typed} train --help" in door("train", "--nothing", as_module=as_module, code=2)
    assert f"\nSee {typed} eval images --help" in door("eval", "images", "--nothing", as_module=as_module, code=2)
    misplaced = door("live", "clip.mp4", "--domain", "winter", as_module=as_module, code=2)
    assert misplaced.endswith("passed with --camera.\n")


@pytest.mark.parametrize(("words", "as_module"), [(["video"], False), (["eval", "model"], True), ([], True)])
def test_completion_asked_of_a_verb_is_that_of_dsmap(door, tmp_path, words, as_module):
    """Its script covers the verbs; one of "dsmap video" would be broken. With the shell named, as none is detected."""
    variables = {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    shown = door(*words, "--show-completion", "bash", as_module=as_module, **variables)
    assert shown.rstrip().endswith("complete -o default -F _dsmap_completion dsmap")
    assert "_DSMAP_COMPLETE=complete_bash" in shown
    door(*words, "--install-completion", "bash", as_module=as_module, **variables)
    assert [path.name for path in (tmp_path / ".bash_completions").iterdir()] == ["dsmap.sh"]


@pytest.mark.parametrize("verb", ["bench", "eval"])
def test_a_verb_of_several_commands_lists_them_when_alone(door, verb):
    screen = door(verb)
    assert screen == door(verb, "--help") == door(verb, "-h")
    assert "\nCommands:\n" in screen


def test_an_option_is_proposed_only_where_it_is_close(door):
    advice = "See dsmap video --help.\n"
    assert door("video", "--foo", code=2) == f"error: No such option: --foo\n{advice}"
    assert door("video", "--hight", code=2) == f"error: No such option: --hight. Did you mean --height?\n{advice}"


@pytest.mark.parametrize(
    ("option", "value", "bounds"),
    [("--strength", "2", "between 0 and 1"), ("--height", "3", "between 16 and 8192"), ("--frames", "0", "at least 1")],
)
def test_a_number_out_of_range(door, option, value, bounds):
    told = door("video", "a.mp4", "--domain", "winter", option, value, code=2)
    assert told.splitlines()[0] == f"error: Invalid value for '{option}': must be {bounds}"


def test_a_verb_that_does_not_exist(door):
    assert door("vidoe", code=2) == "error: No such command 'vidoe'. Did you mean 'video'?\nSee dsmap --help.\n"


def test_the_version(door):
    import dsmap

    assert door("--version") == f"dsmap {dsmap.__version__}\n" == door("video", "--version")


def test_shells_complete_verbs_and_options(door):
    def completions(line):
        words = line.split(" ")
        variables = {"_DSMAP_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
        return door(**variables).split()

    assert completions("dsmap vi") == ["video"]
    assert completions("dsmap ") == list(VERBS)
    assert completions("dsmap video --dom") == ["--domain"]
    assert "complete -o default -F _dsmap_completion dsmap" in door(_DSMAP_COMPLETE="source_bash")  # no shell to detect
