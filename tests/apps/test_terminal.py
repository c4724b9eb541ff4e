import io

import pytest

from polyfield.apps import terminal
from polyfield.apps.terminal import say


def said(text, monkeypatch, encoding="utf-8"):
    raw = io.BytesIO()
    monkeypatch.setattr(terminal.sys, "stdout", io.TextIOWrapper(raw, encoding, newline="\n"))
    say(text)
    return raw.getvalue()


def test_plain_words_are_printed_as_they_are(monkeypatch):
    assert said("été: 3 views\nand a line", monkeypatch) == "été: 3 views\nand a line\n".encode()


@pytest.mark.parametrize(
    ("name", "shown"),
    [("\udcff.png", rb"\udcff.png"), ("\x1b[31mred", rb"\x1b[31mred"), ("a\rb", rb"a\rb")],
)
def test_names_that_are_no_text_or_command_the_terminal_are_escaped(monkeypatch, name, shown):
    assert said(name, monkeypatch) == shown + b"\n"


def test_letters_that_the_terminal_lacks_are_escaped(monkeypatch):
    assert said("été", monkeypatch, "ascii") == b"\\xe9t\\xe9\n"


def test_complaints_go_to_standard_error(capsys):
    say("no", error=True)
    assert capsys.readouterr() == ("", "no\n")
