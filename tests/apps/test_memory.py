import torch

from polyfield.apps.memory import peak_resident_bytes, resident_bytes


def test_resident_memory_follows_what_is_held():
    before = resident_bytes()
    held = torch.ones(16_000_000)
    during = resident_bytes()
    assert 60e6 < during - before < 100e6
    assert peak_resident_bytes() >= during - 1e6
    del held
    assert during - resident_bytes() > 50e6
