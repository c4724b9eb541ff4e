import os

import pytest

from polyfield.apps.atomic import replacing


def test_the_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "page.html"
    with replacing(path) as temporary:
        temporary.write_text("all of it")
        assert not path.exists() and temporary.parent == path.parent
        assert temporary.suffix == ".html"
    assert path.read_text() == "all of it" and list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_others_may_read_what_they_may_read_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    with replacing(tmp_path / "ours") as temporary:
        temporary.write_text("")
    modes = {os.stat(tmp_path / name).st_mode for name in ("plain", "ours")}
    assert len(modes) == 1
