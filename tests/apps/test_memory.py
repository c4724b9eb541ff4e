import mmap

from polyfield.apps.memory import peak_resident_bytes, resident_bytes


def test_resident_memory_follows_what_is_held():
    before = resident_bytes()
    held = mmap.mmap(-1, 64_000_000)  # of the system itself: an allocator may have some left
    for _ in range(64):
        held.write(b"1" * 1_000_000)
    during = resident_bytes()
    assert 60e6 < during - before < 100e6
    assert peak_resident_bytes() >= during - 1e6
    held.close()
    assert during - resident_bytes() > 50e6
