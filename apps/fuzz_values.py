"""Hostile values in JSON, and hostile words in text."""

from __future__ import annotations

import copy
import json
import math
import re
from random import Random
from typing import Any

ODD_TEXTS = (
    "", " ", "a", ".", "..", "/", "~", "*", "\0", "a\0b", "/etc/passwd", "../../../../etc/passwd",
    "/dev/zero", "/dev/stdin", "/proc/self/mem", "\ud800", "\u202e\u0301é漢😀", "é" * 300,
    "x" * 5000, "x/" * 3000, "C:\\x\\y", "images", "loop", "NaN", "1", "true", "OPENCV_FISHEYE",
    "EQUIRECTANGULAR", "FULL_OPENCV", "equirectangular", "fisheye", "%s%n{}{0}", "\n\r\t",
)  # fmt: skip
ODD_NUMBERS: tuple[float, ...] = (
    0, -1, 1, 2, 3, 0.5, -0.0, 1e-300, 1e300, -1e300, 1e9, 1e-9, 9.99e8, 255, 256, 65536, 2**31,
    -(2**31), 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**400, math.nan, math.inf, -math.inf,
    math.pi, 180, 360,
)  # fmt: skip
_ODD_WORDS = (
    "nan", "inf", "-inf", "1e400", "1e300", "-1", "0", "0x10", "9223372036854775807", "1_0", "١٢",
    "18446744073709551616", "9" * 5000, "-0", "1e-320", "", "#", "\0", "\ufeff", "é", "/etc/passwd",
    "../../etc/passwd", "..", "PINHOLE", "x" * 5000, "1.5", "list", "uchar", "double", "end_header",
)  # fmt: skip
_MANY = (2_000, 60_000, 600_000)
_MANY_LINES = (2_000, 30_000, 200_000)


class _Written(str):
    """What stands in the file as it is."""


def odd_json(content: bytes, random: Random) -> tuple[bytes, str]:
    """A JSON text with one to three values of it changed, and a word of what was done."""
    try:
        whole: Any = {"": json.loads(content)}
    except (ValueError, RecursionError):  # what another change has left
        return content, "nothing: no JSON"
    said = [_change(whole, random) for _ in range(random.choice((1, 1, 1, 2, 3)))]
    written: list[str] = []
    text = json.dumps(_marked(whole[""], written))
    text = re.sub(r'"@@(\d+)@@"', lambda mark: written[int(mark[1])], text)
    coding = random.choice(("utf-8",) * 20 + ("utf-8-sig", "utf-16", "utf-32"))
    return text.encode(coding, "surrogatepass"), ", ".join(said)


def _places(value: Any, path: str, found: list[tuple[Any, Any, str]]) -> None:
    """Each value in a JSON, as what holds it and under which key."""
    keys = value if isinstance(value, dict) else range(len(value))
    for key in list(keys):
        inner = f"{path}.{key}"
        found.append((value, key, inner))
        if isinstance(value[key], dict | list):
            _places(value[key], inner, found)


def _change(whole: dict[str, Any], random: Random) -> str:
    found: list[tuple[Any, Any, str]] = []
    _places(whole, "", found)
    # Numbers of matrices are the most; the keys above them are as interesting.
    above = [place for place in found if isinstance(place[0], dict)]
    holder, key, path = random.choice(above if random.random() < 0.6 and above else found)
    what = random.randrange(12)
    if what == 0 and holder is not whole:
        del holder[key]
        return f"{path[2:]} taken away"
    if what == 1:
        other, name, _ = random.choice(found)
        holder[key] = copy.deepcopy(other[name]) if other is not whole else []
        return f"{path[2:]} from elsewhere"
    if what == 2 and type(holder[key]) in (int, float) and abs(holder[key]) < 2**64:
        holder[key] = holder[key] * random.choice((-1, 0, 1e-12, 1e3, 1e12, 1 + 1e-7, 1.01))
        return f"{path[2:]} to scale"
    if what == 3:
        deep = random.choice((10, 900, 50_000))
        left, right = random.choice((("[", "]"), ('{"a":', "}")))
        holder[key] = _Written(left * deep + "1" + right * deep)
        return f"{path[2:]} {deep} deep"
    if what == 4:
        count, item = random.choice(_MANY), random.choice(("[]", "{}", "0", "0.5", '"a"', "[[1]]"))
        holder[key] = _Written("[" + ",".join([item] * count) + "]")
        return f"{path[2:]} {count} times {item}"
    if what == 5 and isinstance(holder[key], list) and holder[key]:
        most = max(1, 1_000_000 // len(json.dumps(holder[key])))
        times = random.choice((0, 2, min(50, most), min(3000, most)))
        # Each a value of its own, or what is written into one of them would stand in all.
        holder[key] = [copy.deepcopy(item) for _ in range(times) for item in holder[key]]
        return f"{path[2:]} of {len(holder[key])}"
    if what == 6 and isinstance(holder, dict) and isinstance(holder[key], dict):
        inner = json.dumps(holder[key])[1:-1]
        times = random.choice((2, min(500, max(2, 1_000_000 // max(1, len(inner))))))
        holder[key] = _Written("{" + ",".join([inner] * times) + "}")
        return f"{path[2:]} with its keys again"
    if what == 7:
        holder[key] = random.choice(ODD_TEXTS)
    elif what == 8:
        holder[key] = random.choice((None, True, False, [], {}, [[]], [1], {"a": 1}, [None] * 4))
    elif what == 9:
        holder[key] = _Written(
            random.choice(("9" * 5000, "NaN", "-Infinity", "1e999", '"\\ud800"'))
        )
    else:
        holder[key] = random.choice(ODD_NUMBERS)
    return f"{path[2:]} = {str(holder[key])[:40]!r}"


def _marked(value: Any, written: list[str]) -> Any:
    """The value with marks in the place of what is to be written as it is."""
    if isinstance(value, _Written):
        written.append(str(value))
        return f"@@{len(written) - 1}@@"
    if isinstance(value, dict):
        return {key: _marked(inner, written) for key, inner in value.items()}
    if isinstance(value, list):
        return [_marked(inner, written) for inner in value]
    return value


def odd_text(content: bytes, random: Random) -> tuple[bytes, str]:
    """A text of lines and words with some of them changed, and a word of what was done."""
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    said = []
    for _ in range(random.choice((1, 1, 2, 3))):
        row = random.randrange(len(lines))
        what = random.randrange(9)
        if what == 0 and len(lines) > 1:
            del lines[row]
            said.append(f"line {row} taken away")
        elif what == 1:
            count = min(random.choice(_MANY_LINES), 3_000_000 // (len(lines[row]) + 1))
            lines[row:row] = [lines[row]] * count
            said.append(f"line {row} {count} times")
        elif what == 2:
            count = random.choice(_MANY_LINES)
            lines[row:row] = [random.choice(("", " ", "#", "0", "1 1 1 1 1 1 1 1"))] * count
            said.append(f"{count} lines of little")
        elif what == 3:
            count = random.choice(_MANY_LINES)
            lines[row] += random.choice((" 1", " ", "x", " 1 1 1")) * count
            said.append(f"line {row} longer by {count}")
        elif what == 4:
            other = random.randrange(len(lines))
            lines[row], lines[other] = lines[other], lines[row]
            said.append(f"lines {row} and {other} in each other's place")
        else:
            words = re.split(r"(\s+)", lines[row])
            at = random.randrange(len(words))
            words[at] = random.choice((*_ODD_WORDS, str(random.choice(ODD_NUMBERS))))
            lines[row] = "".join(words)
            said.append(f"line {row}: a word {words[at][:20]!r}")
    text = "\n".join(lines)
    if random.random() < 0.03:
        return text.encode(
            random.choice(("utf-16", "utf-8-sig", "cp037")), "replace"
        ), "another code"
    return text.encode("utf-8", "surrogateescape"), ", ".join(said)
