"""Random Gaussians, what they look like, and the sample files, for the tests of splats."""

import os
from pathlib import Path

import pytest
import torch

from polyfield.fields.splats import Splats

DATA = Path(os.environ.get("POLYFIELD_DATA", Path(__file__).parents[1] / "../shared/data"))
FIELDS = ("means", "log_scales", "quaternions", "opacity_logits", "harmonics")


def sample(name):
    """Path of a file that another program wrote; skips the test where it is not there."""
    path = DATA / "splats" / name
    if not path.exists():
        pytest.skip(f"no splats/{name} beside the repository ($POLYFIELD_DATA)")
    return path


def model(count=50, degree=3, seed=0, antialiased=False, dtype=torch.float32):
    """Gaussians of ordinary size: every number within what all formats hold."""
    random = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return 2 * torch.rand(*shape, generator=random, dtype=dtype) - 1

    return Splats(
        5 * draw(count, 3),
        -3 + 2 * draw(count, 3),
        torch.nn.functional.normalize(torch.randn(count, 4, generator=random, dtype=dtype), dim=1),
        4 * draw(count),
        0.6 * draw(count, (degree + 1) ** 2, 3),
        antialiased,
    )


def matrices(quaternions):
    """Rotation matrices, by the formula in the comments of 3DGS; any length."""
    w, x, y, z = torch.nn.functional.normalize(quaternions.double(), dim=1).unbind(1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, 1) for row in rows], 1)


def covariances(splats):
    """R diag(sigma^2) R^T of each."""
    axes = matrices(splats.quaternions) * splats.log_scales.double().exp()[:, None]
    return axes @ axes.mT


def angles(a, b):
    """Degrees between two rotations, as quaternions of any sign and length."""
    a, b = (torch.nn.functional.normalize(q.double(), dim=1) for q in (a, b))
    apart = torch.minimum((a - b).norm(dim=1), (a + b).norm(dim=1))
    return torch.rad2deg(4 * torch.asin(apart / 2))


def basis(directions):
    """The 25 harmonics of 3DGS and SPZ, by the table of their polynomials."""
    x, y, z = directions.double().unbind(1)
    xx, yy, zz = x * x, y * y, z * z
    polynomials = [
        0.28209479177387814 + 0 * x,
        -0.48860251 * y, 0.48860251 * z, -0.48860251 * x,
        1.09254843 * x * y, -1.09254843 * y * z, 0.31539157 * (2 * zz - xx - yy),
        -1.09254843 * x * z, 0.54627422 * (xx - yy),
        -0.59004359 * y * (3 * xx - yy), 2.89061144 * x * y * z,
        -0.45704580 * y * (4 * zz - xx - yy), 0.37317633 * z * (2 * zz - 3 * xx - 3 * yy),
        -0.45704580 * x * (4 * zz - xx - yy), 1.44530572 * z * (xx - yy),
        -0.59004359 * x * (xx - 3 * yy),
        2.50334294 * x * y * (xx - yy), -1.77013077 * y * z * (3 * xx - yy),
        0.94617470 * x * y * (7 * zz - 1), -0.66904654 * y * z * (7 * zz - 3),
        0.10578555 * (zz * (35 * zz - 30) + 3), -0.66904654 * x * z * (7 * zz - 3),
        0.47308735 * (xx - yy) * (7 * zz - 1), -1.77013077 * x * z * (xx - 3 * yy),
        0.62583574 * (xx * (xx - 3 * yy) - yy * (3 * xx - yy)),
    ]  # fmt: skip
    return torch.stack(polynomials, 1)


def colors(splats, directions):
    """Of every Gaussian along each direction, before negative ones are cut off."""
    values = basis(directions)[:, : splats.harmonics.shape[1]]
    return 0.5 + torch.einsum("dk,nkc->ndc", values, splats.harmonics.double())


def hundred_directions():
    """Unit vectors all over the sphere."""
    random = torch.Generator().manual_seed(5)
    directions = torch.randn(100, 3, generator=random, dtype=torch.float64)
    return torch.nn.functional.normalize(directions, dim=1)


def same(a, b):
    """Whether two models are equal, bit for bit."""
    return a.antialiased == b.antialiased and all(
        torch.equal(getattr(a, name), getattr(b, name)) for name in FIELDS
    )
