"""Arrays as files hold them, lists of lists of numbers: looked at before they take memory."""

from __future__ import annotations


def has_shape(values: object, shape: tuple[int | None, ...]) -> bool:
    """Whether these are numbers in lists in lists, so many of each; None for any number of lists.

    torch takes memory for the shape that the first entries promise: of a small file that lies, for
    the product of its lengths.
    """
    if not shape:
        return isinstance(values, int | float) and not isinstance(values, bool)
    count, *inner = shape
    if not isinstance(values, list) or count not in (None, len(values)):
        return False
    return all(has_shape(value, tuple(inner)) for value in values)
