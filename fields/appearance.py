"""What each photograph's light was like, in a few numbers that colours depend on."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from polyfield.cuda.errors import InputError
from polyfield.fields.field import TrainableField

MOST_NUMBERS = 64  # of a photograph


def appearance_codes(photographs: int, numbers: int) -> nn.Parameter | None:
    """A code [photographs, numbers] for each photograph, all 0; None where numbers is 0.

    Raises InputError for more numbers than 64, or for codes of no photograph.
    """
    if not 0 <= numbers <= MOST_NUMBERS:
        raise InputError("--appearance", f"{numbers} numbers a photograph", f"0 to {MOST_NUMBERS}")
    if numbers and not photographs:
        raise InputError("--appearance", "codes of no photograph", "how many photographs there are")
    return nn.Parameter(torch.zeros(photographs, numbers)) if numbers else None


def with_code(
    encoded: Float[Tensor, "r h"],
    codes: nn.Parameter | None,
    code: Float[Tensor, "r k"] | None,
) -> Float[Tensor, "r hk"]:
    """Encoded directions with the code of each ray behind them; the mean of all codes if None.

    codes: those of the photographs; encoded is returned as it is where there are none.
    """
    if codes is None:
        return encoded
    if code is None:
        code = codes.mean(0).expand(len(encoded), -1)
    return torch.cat([encoded, code], 1)


def rows_of(table: Float[Tensor, "rows k"], index: Int[Tensor, " n"]) -> Float[Tensor, "n k"]:
    """table[index]; its gradient is summed in the same order every time, unlike indexing's."""
    return torch.nn.functional.embedding(index, table)


class InLightOf:
    """A radiance field as it looks along rays of photographs, each with an appearance code.

    photograph: that of each ray, or that of all. Gradients reach the codes.
    Source: NeRF in the Wild (arXiv:2008.02268), whose codes, too, reach colour alone: the same
    matter stands in every light.
    """

    def __init__(
        self,
        field: TrainableField,
        codes: Float[Tensor, "photographs k"],
        photograph: Int64[Tensor, " r"] | int,
    ):
        self.field, self.codes, self.photograph = field, codes, photograph
        self.density, self.color = field.density, field.color

    def encode_directions(self, directions: Float[Tensor, "r 3"]) -> Float[Tensor, "r h"]:
        """The field's encoding of unit directions, with the rays' codes."""
        photograph = torch.as_tensor(self.photograph, device=self.codes.device)
        codes = rows_of(self.codes, photograph.expand(len(directions)))
        return self.field.encode_directions(directions, codes)
