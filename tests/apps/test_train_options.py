from pathlib import Path

import pytest

from polyfield.apps.train_options import Train, check
from polyfield.cuda.errors import InputError

LEGO = Path("lego")


@pytest.mark.parametrize(
    "options",
    [
        Train(LEGO),
        Train(LEGO, minutes=0.5, memory=1.5, device="cuda:1", seed=2**63 - 1),
        Train(LEGO, steps=1, device="cuda"),
        Train(out=Path("run"), resume=True),
        Train(LEGO, resume=True),
        Train(LEGO, sampler="proposal", distortion=0.01),
        Train(LEGO, field="tri-plane", total_variation=0.1),
        Train(LEGO, networks="tiny-cuda-nn", device="cuda"),
        Train(LEGO, surface="neus", coarse_to_fine=1000),
        Train(LEGO, resume=True, steps=300),
        Train(from_config=Path("run/config.json"), out=Path("again")),
        Train(LEGO, from_config=Path("run/config.json")),
    ],
)
def test_what_makes_sense_passes(options):
    check(options)


@pytest.mark.parametrize(
    ("options", "where"),
    [
        (Train(), "SCENE"),
        (Train(resume=True), "--resume"),
        (Train(LEGO, minutes=1.0, steps=3), "--minutes and --steps"),
        (Train(from_config=Path("c"), resume=True, out=Path("run")), "--from and --resume"),
        (Train(from_config=Path("c"), steps=3), "--from and --steps"),
        (Train(from_config=Path("c"), minutes=3.0), "--from and --minutes"),
        (Train(LEGO, minutes=0.0), "--minutes"),
        (Train(LEGO, total_variation=0.1), "--total-variation"),
        (Train(LEGO, field="tri-plane", total_variation=-1.0), "--total-variation"),
        (Train(LEGO, field="mlp", networks="tiny-cuda-nn"), "--networks"),
        (Train(LEGO, coarse_to_fine=1000), "--coarse-to-fine"),
        (Train(LEGO, surface="neus", field="rbf", coarse_to_fine=9), "--coarse-to-fine"),
        (Train(LEGO, surface="neus", coarse_to_fine=-1), "--coarse-to-fine"),
        (Train(LEGO, surface="neus", coarse_to_fine=10**10), "--coarse-to-fine"),
        (Train(LEGO, minutes=float("inf")), "--minutes"),
        (Train(LEGO, memory=float("nan")), "--memory"),
        (Train(LEGO, minutes=1e300), "--minutes"),
        (Train(LEGO, memory=1e300), "--memory"),
        (Train(LEGO, steps=0), "--steps"),
        (Train(LEGO, steps=10**400), "--steps"),
        (Train(LEGO, seed=-1), "--seed"),
        (Train(LEGO, distortion=-0.1), "--distortion"),
        (Train(LEGO, distortion=float("nan")), "--distortion"),
        (Train(LEGO, distortion=1e300), "--distortion"),
        (Train(LEGO, device="gpu"), "--device"),
        (Train(LEGO, device="cuda:"), "--device"),
        (Train(LEGO, device="cpu:0"), "--device"),
        (Train(LEGO, device="cuda:\u00b2"), "--device"),
    ],
)
def test_what_does_not_is_refused_by_name(options, where):
    with pytest.raises(InputError) as caught:
        check(options)
    assert caught.value.where == where
