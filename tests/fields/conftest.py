"""What tiny-cuda-nn computes from flat parameters, written from its specification alone."""

import math

import numpy as np
import pytest


class SlowGrid:
    """The encoding of a flat vector as it is specified, one entry at a time, in Python's numbers.

    Scales in float32; p = scale * x + 1/2; dense where all nodes have an entry, x fastest; else
    hashed by exclusive or; either modulo the level's size.
    """

    def __init__(self, flat, config):
        self.flat, self.config = flat.double().numpy(), config
        exponent = np.float32(math.log2(np.float32(config.per_level_scale)))
        self.levels, begin = [], 0
        for level in range(config.n_levels):
            power = np.float32(2.0 ** float(np.float32(level) * exponent))
            scale = float(power * np.float32(config.base_resolution) - np.float32(1))
            nodes = math.ceil(scale) + 1
            size = min((nodes**3 + 7) // 8 * 8, 2**config.log2_hashmap_size)
            self.levels.append((scale, nodes, begin, size))
            begin += size
        self.parameters = begin * config.n_features_per_level

    def entry(self, level, node):
        _, nodes, begin, size = self.levels[level]
        x, y, z = node
        if nodes**3 <= size:
            index = x + y * nodes + z * nodes**2
        else:
            index = x ^ (y * 2654435761 % 2**32) ^ (z * 805459861 % 2**32)
        return begin + index % size

    def corner(self, level, point, bits):
        scale = self.levels[level][0]
        nodes = [math.floor(scale * c + 0.5) for c in point]
        return self.entry(level, [node + bit for node, bit in zip(nodes, bits, strict=True)])

    def __call__(self, point):
        features, count = [], self.config.n_features_per_level
        for level, (scale, *_) in enumerate(self.levels):
            position = [scale * float(c) + 0.5 for c in point]
            part = [p - math.floor(p) for p in position]
            if self.config.interpolation == "Smoothstep":
                part = [f * f * (3 - 2 * f) for f in part]
            for f in range(count):
                total = 0.0
                for corner in range(8):
                    bits = [corner >> axis & 1 for axis in range(3)]
                    weight = math.prod(u if b else 1 - u for u, b in zip(part, bits, strict=True))
                    total += weight * self.flat[count * self.corner(level, point, bits) + f]
                features.append(total)
        return features


def slow_network(flat, inputs, shapes):
    """Dense layers from a flat vector of matrices [out, in], row after row; ReLU between."""
    values, begin = list(inputs), 0
    for number, (rows, columns) in enumerate(shapes):
        assert len(values) == columns
        matrix = flat[begin : begin + rows * columns].view(rows, columns).tolist()
        values = [sum(w * v for w, v in zip(row, values, strict=True)) for row in matrix]
        if number < len(shapes) - 1:
            values = [max(v, 0.0) for v in values]
        begin += rows * columns
    assert begin == len(flat)
    return values


@pytest.fixture
def slow_grid():
    """The encoding of flat parameters and a GridConfig: a function of one point."""
    return SlowGrid


@pytest.fixture(name="slow_network")
def slow_network_fixture():
    """Outputs of flat parameters, inputs of one point, and the shapes of all matrices."""
    return slow_network
