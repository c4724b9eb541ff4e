import pytest
import torch

from polyfield.apps import lpips_weights
from polyfield.apps.lpips_weights import VGG16, find_lpips
from polyfield.render.lpips import PerceptualNetwork


class Runs:
    def __reduce__(self):
        return (print, ("ran",))


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Where the two files are looked for; the package is a folder that must never be imported."""
    package = tmp_path / "site" / "lpips"
    (package / "weights" / "v0.1").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints" / VGG16, package / "weights" / "v0.1" / "vgg.pth"


def test_weights_on_this_machine_are_found_and_loaded(places, monkeypatch):

    def made(vgg, linear):
        return PerceptualNetwork(((vgg["a"], vgg["a"]),), (linear["a"],))

    monkeypatch.setattr(lpips_weights, "perceptual_network", made)
    for number, path in enumerate(places):
        torch.save({"a": torch.tensor(number)}, path)
    network, why = find_lpips()
    assert network.kernels[0][0] == 0 and network.importance[0] == 1 and why == ""


def test_what_is_missing_is_named_with_what_brings_it(places, monkeypatch):
    vgg, linear = places
    network, why = find_lpips()
    assert network is None and "the package lpips is not there: pip install lpips" in why
    torch.save({}, linear)
    network, why = find_lpips()
    assert network is None and str(vgg) in why and "lpips.LPIPS(net='vgg')" in why
    torch.save({}, vgg)
    assert find_lpips()[1].startswith("LPIPS weights: features.0.weight: missing")


def test_a_file_never_runs(places, capsys):
    vgg, linear = places
    torch.save(Runs(), vgg)
    torch.save({}, linear)
    network, why = find_lpips()
    assert network is None and "cannot be read" in why and "ran" not in capsys.readouterr().out
    vgg.write_bytes(b"cut off")
    assert "cannot be read" in find_lpips()[1]
