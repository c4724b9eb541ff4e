import dataclasses
import re
from html.parser import HTMLParser

import pytest
import torch

from polyfield.apps.diagnosis import Warning
from polyfield.apps.info import examine
from polyfield.apps.info_drawing import scene_drawings
from polyfield.apps.info_page import info_page, write_info_page


@pytest.fixture(scope="module")
def examined(scene):
    return examine(scene)


def marked(examined, frame, kind="blurred"):
    name = str(examined.scene.image_paths[frame].relative_to(examined.scene.folder))
    warning = Warning(kind, name, "it is <soft>.", "Take it again.", (frame,))
    info = dataclasses.replace(examined.info, warnings=(warning,))
    return dataclasses.replace(examined, info=info)


class Balanced(HTMLParser):
    """Fails where a tag is closed that is not open."""

    void = {"meta", "img", "circle", "path", "br"}

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attributes):
        if tag not in self.void or tag == "path":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        while self.open and self.open[-1] == "path" and tag != "path":
            self.open.pop()
        assert self.open.pop() == tag


def test_the_page_holds_every_photograph_fact_and_drawing_and_asks_for_nothing(examined):
    page = info_page(examined)
    parser = Balanced()
    parser.feed(page)
    assert not parser.open
    assert page.count("data:image/jpeg") == 24 and page.count("<svg") == 3
    assert "No warnings" in page and "NeRF-synthetic box" in page
    assert not re.search(r'(src|href)="(?!data:)', page) and "<script" not in page


def test_a_warned_photograph_is_marked_in_sheet_and_drawings_and_text_is_escaped(examined):
    page = info_page(marked(examined, 4))
    assert page.count('<div class="marked">') == 1 and page.count('<path class="marked"') == 3
    assert "it is &lt;soft&gt;." in page and "1 warning" in page
    assert 'class="marked"' not in info_page(examined).split("</style>")[1]


def test_a_warned_photograph_is_shown_however_many_there_are(examined, monkeypatch):
    monkeypatch.setattr("polyfield.apps.info_page._MOST_PICTURES", 4)
    page = info_page(marked(examined, 5))
    assert page.count("data:image/jpeg") == 5 and "train/r_7.png" in page


def test_a_photograph_that_does_not_decode_has_its_name_without_a_picture(examined):
    samples = {frame: sample for frame, sample in examined.samples.items() if frame != 3}
    page = info_page(dataclasses.replace(marked(examined, 3), samples=samples))
    assert page.count("data:image/jpeg") == 23 and page.count("<b>blurred</b>") == 1


def apex(path):
    """Where a frustum's edges meet: the camera's place in the drawing."""
    return tuple(float(v) for v in re.search(r"ZM([-\d.]+) ([-\d.]+)", path).groups())


def test_cameras_are_drawn_where_they_stand(examined):
    drawing = scene_drawings(examined.scene, {})["from above"]
    found = [apex(d) for d in re.findall(r'<path class="(?:camera|held)" d="([^"]+)"', drawing)]
    assert len(found) == 24
    # Seen from above, distances are those of x and y, times one scale.
    position = examined.scene.cameras.camera_to_world[:, :2, 3]
    places = torch.tensor(found, dtype=torch.float64)
    ratio = torch.pdist(places) / torch.pdist(position.double())
    assert float(ratio.min()) > 0.97 * float(ratio.max())


def test_one_lost_camera_does_not_shrink_the_drawing(examined):
    poses = examined.scene.cameras.camera_to_world.clone()
    poses[2, :, 3] = torch.tensor([1e6, 0, 0])
    cameras = dataclasses.replace(examined.scene.cameras, camera_to_world=poses)
    drawing = scene_drawings(dataclasses.replace(examined.scene, cameras=cameras), {})["at a slant"]
    places = [apex(d) for d in re.findall(r'<path class="(?:camera|held)" d="([^"]+)"', drawing)]
    spread = torch.tensor([place for i, place in enumerate(places) if i != 2])
    assert float((spread.amax(0) - spread.amin(0)).min()) > 40
    assert "nan" not in drawing and "inf" not in drawing


def test_nothing_is_left_of_a_page_that_cannot_be_written(examined, tmp_path):
    with pytest.raises(Exception, match="no such|cannot be written"):
        write_info_page(tmp_path / "none" / "page.html", examined)
    assert list(tmp_path.iterdir()) == []
