"""Typed reading of JSON that others wrote: what is of the wrong kind is refused by its name."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyfield.apps.files import parse_json, read_plain
from polyfield.cuda.errors import InputError

LARGEST = 1e9  # of any length or pixel count that a scene can mean; float32 still squares it


@dataclass(frozen=True)
class Fields:
    """One JSON object, with the file and the path inside it for messages. null counts as absent."""

    where: str
    values: dict[str, Any]

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def name(self, key: str) -> str:
        """Full name of a field for messages: `scene/transforms.json: frames[3].fl_x`."""
        joint = " " if self.where.endswith(":") else "" if key.startswith("[") else "."
        return f"{self.where}{joint}{key}"

    def refuse(self, key: str, expected: str, remedy: str = "") -> InputError:
        """The error for what stands under `key`."""
        return InputError(self.name(key), shown(self.values.get(key)), expected, remedy)

    def number(
        self, key: str, low: float = -LARGEST, high: float = LARGEST, what: str = "a number"
    ) -> float | None:
        """A finite number, low < number < high; None where absent."""
        value = self.values.get(key)
        if value is None:
            return None
        # Python's bool is an int, JSON's is not a number; an int may be beyond every float.
        if isinstance(value, bool) or not isinstance(value, int | float) or not low < value < high:
            raise self.refuse(key, f"{what} above {low:g} and below {high:g}")
        return float(value)

    def whole(self, key: str, low: int, high: int) -> int:
        """A whole number from low to high, which must be there."""
        value = self.values.get(key)
        if type(value) is not int or not low <= value <= high:
            raise self.refuse(key, f"a whole number from {low} to {high}")
        return value

    def real(self, key: str, low: float, high: float) -> float:
        """A number from low to high, which must be there."""
        value = self.values.get(key)
        expected = f"a number from {low:g} to {high:g}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.refuse(key, expected)
        if not low <= value <= high:
            raise self.refuse(key, expected)
        return float(value)

    def part(self, key: str) -> Fields:
        """The object under `key`, which must be there."""
        value = self.values.get(key)
        if not isinstance(value, dict):
            raise self.refuse(key, "an object")
        return Fields(self.name(key), value)

    def text(self, key: str) -> str | None:
        """A string; None where absent."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            raise self.refuse(key, "a string")
        return value

    def flag(self, key: str) -> bool:
        """true or false; false where absent."""
        value = self.values.get(key, False)
        if value is not None and not isinstance(value, bool):
            raise self.refuse(key, "true or false")
        return bool(value)

    def items(self, key: str) -> list[Any] | None:
        """An array; None where absent."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, list):
            raise self.refuse(key, "an array")
        return value

    def numbers(self, key: str, count: int) -> list[float] | None:
        """An array of `count` finite numbers; None where absent."""
        value = self.items(key)
        if value is None:
            return None
        if len(value) != count:
            raise self.refuse(key, f"{count} numbers")
        entries = Fields(self.name(key), {f"[{i}]": entry for i, entry in enumerate(value)})
        found = [entries.number(entry) for entry in entries.values]
        if None in found:
            raise self.refuse(key, f"{count} numbers")
        return [number for number in found if number is not None]


def read_object(path: Path, folder: Path) -> Fields:
    """The JSON object in a file, named relative to the scene's folder. InputError if it is none."""
    where = f"{folder.name}/{path.name}:"
    try:
        values = parse_json(read_plain(path))
    except OSError as error:
        raise InputError(where[:-1], f"cannot be read ({error.strerror})", "a JSON file") from error
    except (ValueError, RecursionError) as error:
        # ValueError: no JSON, no UTF-8, or an integer of thousands of digits.
        got = f"not JSON ({str(error) or type(error).__name__})"
        raise InputError(where[:-1], got, "a JSON object") from error
    if not isinstance(values, dict):
        raise InputError(where[:-1], f"JSON, but {shown(values)}", "an object: { ... }")
    return Fields(where, values)


def shown(value: Any) -> str:
    """A value as the file has it, cut to what one can read in a sentence, however large it is."""
    if value is None:
        return "missing"
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "infinite"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**18:
        return "an integer beyond 10^18"
    if isinstance(value, dict | list):
        kind = "an object" if isinstance(value, dict) else "an array"
        return f"{kind} of {len(value)}"
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
