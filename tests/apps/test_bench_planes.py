import torch

from polyfield.apps.bench_planes import (
    both_against_grid_sample,
    both_against_reference,
    image_of,
    plane_inputs,
)
from polyfield.apps.bench_race import hold
from polyfield.cuda.planes import PlaneLayout

SMALL = PlaneLayout(3, (5, 9), 16, "product")


def test_both_opponents_compute_what_we_do():
    for race in (both_against_reference, both_against_grid_sample):
        row = hold("planes", race(500, SMALL), 2)
        assert row.ratio is not None and row.ratio > 0


def test_grid_sample_sees_each_plane_as_an_image_of_its_channels():
    _, table, _ = plane_inputs(3, SMALL)
    images = image_of(table, SMALL, 1)
    assert images.shape == (3, 16, 9, 9)
    for image, plane in zip(images, SMALL.planes(table, 1), strict=True):
        assert torch.equal(image[11], plane[1, :, :, 3])
