"""A small scene as a transforms.json, for the tests of what reads one."""

import json
import math

import numpy as np
import pytest
from PIL import Image

WIDTH, HEIGHT = 12, 8


def pose(angle, distance=4.0):
    """OpenGL axes: a camera on a circle about the origin, which looks at it; z is up."""
    backward = np.array([math.cos(angle), math.sin(angle), 0.0])
    right = np.array([-math.sin(angle), math.cos(angle), 0.0])
    matrix = np.eye(4)
    matrix[:3] = np.stack([right, [0, 0, 1], backward, distance * backward], 1)
    return matrix.tolist()


@pytest.fixture(scope="session")
def document():
    """(n frames, further keys) -> what a transforms.json holds; images/0000.png and so on."""

    def make(n=9, **values):
        frames = [
            {"file_path": f"images/{i:04}.png", "transform_matrix": pose(2 * math.pi * i / n)}
            for i in range(n)
        ]
        lens = {"fl_x": 10.0, "fl_y": 11.0, "cx": 6.5, "cy": 3.5, "w": WIDTH, "h": HEIGHT}
        return {"camera_model": "OPENCV", **lens, "frames": frames, **values}

    return make


@pytest.fixture(scope="session")
def write():
    """(folder, contents) -> the folder with the JSON, and a noisy image for each of its frames."""

    def save(folder, contents, size=(WIDTH, HEIGHT)):
        noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        (folder / "images").mkdir(exist_ok=True, parents=True)
        for frame in contents["frames"]:
            path = folder / frame["file_path"]
            if path.suffix and not path.exists():
                path.parent.mkdir(exist_ok=True, parents=True)
                Image.fromarray(noise).save(path)
        (folder / "transforms.json").write_text(json.dumps(contents))
        return folder

    return save
