"""The one transform between a user's frame and the frame a field lives in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.cuda.errors import InputError
from polyfield.fields.nested_numbers import has_shape


@dataclass(frozen=True, eq=False)
class Similarity:
    """Scale, rotation and translation: x -> scale * rotation @ x + translation.

    scale > 0, rotation [3, 3] a proper rotation, translation [3], both float64. A field carries the
    similarity that leads from the user's frame into its unit cube; whatever leaves the engine goes
    through the inverse.
    """

    scale: float
    rotation: Float[Tensor, "3 3"]
    translation: Float[Tensor, " 3"]

    @staticmethod
    def identity() -> Similarity:
        """The frame itself."""
        return Similarity(1.0, torch.eye(3, dtype=torch.float64), torch.zeros(3).double())

    def apply(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """Points of the source frame in the target frame, in their own dtype, on their device."""
        moved = self.scale * points.double() @ self.rotation.T.to(points.device)
        return (moved + self.translation.to(points.device)).to(points.dtype)

    def inverse(self) -> Similarity:
        """The way back."""
        rotation = self.rotation.T
        return Similarity(1 / self.scale, rotation, -(rotation @ self.translation) / self.scale)

    def compose(self, first: Similarity) -> Similarity:
        """One similarity that applies `first` and then this one."""
        return Similarity(
            self.scale * first.scale, self.rotation @ first.rotation, self.apply(first.translation)
        )

    def apply_to_cameras(self, camera_to_world: Float[Tensor, "n 3 4"]) -> Float[Tensor, "n 3 4"]:
        """Poses in the target frame: axes stay orthonormal, positions scale."""
        rotation = self.rotation.to(camera_to_world.device)
        axes = rotation @ camera_to_world[:, :, :3].double()
        position = self.apply(camera_to_world[:, :, 3].double())
        return torch.cat([axes, position[:, :, None]], 2).to(camera_to_world.dtype)

    def to_json(self) -> dict[str, object]:
        """Plain numbers, exact in float64; `from_json` reads them back."""
        return {
            "scale": self.scale,
            "rotation": self.rotation.tolist(),
            "translation": self.translation.tolist(),
        }

    @staticmethod
    def from_json(values: dict) -> Similarity:
        """The similarity that `to_json` wrote. InputError where a number is missing or unusable."""
        shapes = {"scale": (), "rotation": (3, 3), "translation": (3,)}
        for name, shape in shapes.items():
            if not has_shape(values.get(name), shape):
                got = "missing" if name not in values else repr(values[name])[:80]
                raise InputError(f"similarity.{name}", got, _EXPECTED)
        try:
            scale = float(values["scale"])
            rotation = torch.tensor(values["rotation"], dtype=torch.float64)
            translation = torch.tensor(values["translation"], dtype=torch.float64)
            finite = torch.isfinite(rotation).all() & torch.isfinite(translation).all()
            sound = 0 < scale < 1e30 and bool(finite)
            sound = sound and bool((rotation @ rotation.T - torch.eye(3)).abs().max() < 1e-6)
            sound = sound and bool(torch.linalg.det(rotation) > 0)
        except (RuntimeError, OverflowError) as error:
            got = f"{type(error).__name__}: {error}"[:200]
            raise InputError("similarity", got, _EXPECTED) from error
        if not sound:
            numbers = [scale, *rotation.flatten().tolist(), *translation.tolist()]
            raise InputError("similarity", str(numbers), _EXPECTED)
        return Similarity(scale, rotation, translation)


_EXPECTED = "scale > 0, rotation 3x3 orthonormal and not mirrored, translation of 3 finite numbers"
