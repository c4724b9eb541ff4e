"""Checks of calls catch what jaxtyping's own do: wrong types, shapes and results, anywhere."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from beartype import beartype
from checked_calls import jaxtyped
from jaxtyping import Float, TypeCheckError
from torch import Tensor

checked = jaxtyped(typechecker=beartype)
ROWS, ROW = torch.zeros(4, 3), torch.zeros(4)


@checked
def kept(
    x: Float[Tensor, "n 3"], y: Float[Tensor, " n"], k: int = 1, *, short: bool = False
) -> Float[Tensor, "n 3"]:
    return x[:1] if short else x


@checked
def told(x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    return kept(torch.zeros(7, 3), torch.zeros(7))[: len(x), 0]


@checked
def alike(pair: tuple[Float[Tensor, " n"], Float[Tensor, " n"]]) -> None:
    pass


@checked
def in_words(x: "Float[Tensor, ' n']", y: "Float[Tensor, ' n'] | None" = None) -> None:
    pass


@checked
def counted(n: int) -> Iterator[int]:
    yield from range(n)


@checked
def gathered(*numbers: int, **words: str) -> int:
    return len(numbers) + len(words)


@checked
def as_many(n: int, found: int = 3) -> Float[Tensor, " {n}"]:
    return torch.zeros(found)


@checked
def wrong(x: int) -> int:
    return str(x)


@checked
@dataclass
class Pair:
    x: Float[Tensor, " n"]
    y: Float[Tensor, " n"]
    name: "str | None" = None


FITS = [
    lambda: kept(ROWS, ROW),
    lambda: kept(ROWS[:1], ROW[:1], short=True),
    lambda: kept(x=ROWS, y=ROW, k=2),
    lambda: told(ROW),  # its n is not that of the call within
    lambda: alike((ROW, ROW)),
    lambda: in_words(ROW, None),
    lambda: list(counted(3)),
    lambda: gathered(1, 2, a="b"),
    lambda: as_many(3),
    lambda: Pair(ROW, ROW, "a"),
]
DOES_NOT_FIT = [
    lambda: kept(ROWS, ROW[:3]),
    lambda: kept(ROWS.int(), ROW),
    lambda: kept(ROWS, ROW, "one"),
    lambda: kept(x=ROWS, y=ROW[:3]),
    lambda: kept(ROWS, ROW, short=1),
    lambda: kept(ROWS, ROW, short=True),  # what it returns has another n
    lambda: told(torch.zeros(9)),
    lambda: alike((ROW, ROW[:3])),
    lambda: in_words(ROW, ROW[:3]),
    lambda: counted("3"),
    lambda: gathered(1, "2"),
    lambda: gathered(a=1),
    lambda: as_many(4),
    lambda: wrong(1),
    lambda: Pair(ROW, ROW[:3]),
    lambda: Pair(ROW, ROW, 3),
]


@pytest.mark.parametrize("call", FITS)
def test_what_fits_is_let_through(call):
    call()


@pytest.mark.parametrize("call", DOES_NOT_FIT)
def test_what_does_not_fit_is_refused(call):
    with pytest.raises(TypeCheckError):
        call()


def test_a_call_that_python_refuses_is_refused_by_it():
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'y'"):
        kept(ROWS)


def test_a_scope_of_names_ends_with_its_call_also_by_an_error():
    @checked
    def fails(x: Float[Tensor, " n"]) -> None:
        raise ValueError

    for size in (2, 3):
        with pytest.raises(ValueError):
            fails(torch.zeros(size))
    assert kept(ROWS, ROW) is ROWS
