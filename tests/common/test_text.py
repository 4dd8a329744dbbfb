"""Text from outside, as a terminal may show it."""

import pytest

from dsmap.common.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("snow\x1b[31m", r"snow\x1b[31m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("a\nerror: b", r"a\nerror: b"),
        ("a\rb\tc", r"a\rb\tc"),
        ("\x9b31m", r"\x9b31m"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("\u2066a\u2069", r"\u2066a\u2069"),
        ("\u2028", r"\u2028"),
        ("\udce4", r"\udce4"),
        ("\x7f", r"\x7f"),
    ],
)
def test_what_could_forge_a_line_is_made_visible(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize("text", ["Übung, été", "雪", "👩\u200d🔬", "a\u00a0b", "naïve ß", "עברית"])
def test_names_in_any_script_stay_as_they_are(text):
    assert printable(text) == text


def test_newlines_stay_where_lines_are_meant():
    assert printable("one\n\ttwo\x1b", lines=True) == "one\n\ttwo\\x1b"


def test_anything_can_be_shown():
    assert printable(ValueError("a\nb")) == r"a\nb"
