"""Printing of commands: names from outside move no cursor and forge no line; a closed pipe is not a failure."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dsmap.tools.shared.progress import bar
from dsmap.tools.shared.terminal import note, report_error, say

EVIL = "a\x1b]0;owned\x07\x1b[2J\x9b31m\r\nerror: all is lost\u2028x\u202egpj\udcff rtsp://admin:hunter2@host/x"
SEEN = r"a\x1b]0;owned\x07\x1b[2J\x9b31m\r\nerror: all is lost\u2028x\u202egpj\udcff rtsp://host/x"


def test_each_argument_is_one_line_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    say("first", EVIL)
    say("open", nl=False)
    say()
    note(EVIL)
    report_error(EVIL, "do this", EVIL)
    printed = capsys.readouterr()
    assert printed.out == f"first\n{SEEN}\nopen\n"
    assert printed.err == f"{SEEN}\nerror: {SEEN}\n{SEEN}\nDo this.\n"


@pytest.mark.parametrize(
    ("advice", "shown"),
    [
        ("pass --overwrite to replace it", "Pass --overwrite to replace it."),
        ("Pass --overwrite.", "Pass --overwrite."),
        ("use another; or ask for less", "Use another; or ask for less."),
        ("--domain summer or --domain winter", "--domain summer or --domain winter"),
        ("pip install 'dsmap[cpu]'", "pip install 'dsmap[cpu]'"),
        ("/my/env/bin/python -m pip install 'dsmap[gpu]'", "/my/env/bin/python -m pip install 'dsmap[gpu]'"),
        ("Install it: pip install 'dsmap[cpu]'", "Install it: pip install 'dsmap[cpu]'"),
        ("number the images: -o out/%05d.png", "Number the images: -o out/%05d.png"),
        ("see https://example.org/x", "See https://example.org/x"),
        ("out.mp4 holds them and plays", "out.mp4 holds them and plays."),
        ("batch_size must be 1 here", "batch_size must be 1 here."),
        ("", ""),
    ],
)
def test_advice_is_a_sentence(capsys: pytest.CaptureFixture[str], advice: str, shown: str) -> None:
    report_error("it failed", advice)
    assert capsys.readouterr().err == f"error: it failed\n{shown}\n"


def test_bars_show_names_the_same_way(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "300")
    with bar(title=True, text=True, transient=False) as drawn:
        assert drawn is not None
        drawn.begin(EVIL, total=2)
        drawn.update(1, text=EVIL)
        drawn.say(EVIL)
    printed = capsys.readouterr().out
    assert r"a\x1b]0;owned\x07" in printed
    assert not any(sign in printed for sign in ("\x1b]0", "\x07", "\x9b", "\u202e", "hunter"))


def test_a_missing_file_with_an_evil_name(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from dsmap.tools import live, video

    for main in (video.main, live.main):
        option = ["--camera"] if main is live.main else []
        monkeypatch.setattr(sys, "argv", ["dsmap", "-d", "winter", *option, "no\x1b[2J\nerror: fake.mp4"])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 2
        assert "\\x1b[2J" in lines[0]


@pytest.mark.parametrize("closed", ["stderr", "both"])
def test_nobody_to_tell_is_no_failure(closed: str, tmp_path: Path) -> None:
    code = "from dsmap.tools.shared.terminal import note, report_error\n"
    code += "for _ in range(3): note('x' * 9000); report_error('a', 'b')\n"
    code += "open('done', 'w').close()"
    reading, writing = os.pipe()
    os.close(reading)
    out = writing if closed == "both" else subprocess.PIPE
    done = subprocess.run([sys.executable, "-c", code], stdout=out, stderr=writing, cwd=tmp_path)
    os.close(writing)
    assert done.returncode == 0
    assert (tmp_path / "done").exists()
