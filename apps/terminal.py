"""Words for the terminal."""

import sys


def say(text: str, *, error: bool = False) -> None:
    """Print a text, on standard error if it tells of one; what cannot be shown is escaped.

    Texts hold names of files, which may be no UTF-8, or commands to the terminal.
    """
    stream = sys.stderr if error else sys.stdout
    shown = "".join(
        letter
        if letter.isprintable() or letter == "\n"
        else letter.encode("unicode_escape").decode()
        for letter in text
    )
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(shown.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
