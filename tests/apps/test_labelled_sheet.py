"""Lines of labelled pictures in one sheet."""

import numpy as np
import torch
from PIL import Image

from polyfield.apps.labelled_sheet import GAP, write_sheet


def test_pictures_lie_side_by_side_under_their_labels(tmp_path):
    red, wide = torch.zeros(20, 20, 3), torch.zeros(30, 60, 3)
    red[..., 0], wide[..., 2] = 1, 1
    write_sheet(tmp_path / "sheet.png", [[("red", red), ("blue", wide)], [("again", red)]], 60)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    label = sheet.shape[0] // 2 - 60
    assert sheet.shape == (2 * (60 + label), 60 + GAP + 120, 3) and label > 3
    first, second = sheet[label : label + 60, :60], sheet[label : label + 60, 60 + GAP :]
    assert (first == (255, 0, 0)).all() and (second == (0, 0, 255)).all()
    assert (sheet[label : label + 60, 60 : 60 + GAP] == 255).all()
    assert (sheet[:label, :60] < 128).any() and (sheet[:label, 60 + GAP :] < 128).any()
    below = sheet[60 + 2 * label :]
    assert (below[:, :60] == (255, 0, 0)).all() and (below[:, 60:] == 255).all()


def test_no_picture_makes_an_empty_sheet(tmp_path):
    write_sheet(tmp_path / "sheet.png", [], 30)
    assert Image.open(tmp_path / "sheet.png").size == (1, 1)
