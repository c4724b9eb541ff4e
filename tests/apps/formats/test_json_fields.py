import math
import os

import pytest

from polyfield.apps.formats.json_fields import Fields, read_object
from polyfield.cuda.errors import InputError

VALUES = {"n": 3, "x": 0.5, "part": {"n": 9}, "bool": True, "nan": math.nan, "huge": 10**400}


def test_what_is_there_and_in_range_comes_back():
    fields = Fields("run/config.json:", VALUES)
    assert fields.whole("n", 3, 3) == 3
    assert fields.real("x", 0.5, 0.5) == 0.5 and isinstance(fields.real("n", 0.0, 9.0), float)
    assert fields.part("part").whole("n", 0, 9) == 9


@pytest.mark.parametrize("key", ["bool", "nan", "huge", "part", "missing"])
def test_what_is_not_a_number_in_range_is_refused_by_its_name(key):
    fields = Fields("run/config.json:", VALUES)
    for read, low, high in ((fields.whole, 0, 9), (fields.real, 0.0, 9.0)):
        with pytest.raises(InputError, match=rf"^run/config\.json: {key}: .*from 0 to 9"):
            read(key, low, high)
    with pytest.raises(InputError, match=r"^run/config\.json: part\.n: 9; .*from 0 to 8"):
        fields.part("part").whole("n", 0, 8)
    with pytest.raises(InputError, match="x: 0.5; expected a whole number"):
        fields.whole("x", 0, 9)


def test_a_part_is_an_object():
    for key in ("n", "missing"):
        with pytest.raises(InputError, match=f"{key}: .*; expected an object"):
            Fields("config.json:", VALUES).part(key)


@pytest.mark.parametrize("kind", ["pipe", "folder", "link to a device", "100 GB of nothing"])
def test_what_might_never_end_is_not_read(tmp_path, kind):
    path = tmp_path / "transforms.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link to a device":
        path.symlink_to("/dev/zero")
    else:
        path.touch()
        os.truncate(path, 10**11)
    with pytest.raises(InputError, match="cannot be read"):
        read_object(path, tmp_path)
