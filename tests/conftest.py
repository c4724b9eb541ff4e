"""What all tests share: which implementation runs, and small deterministic data."""

import os

# Before torch starts its threads, here and in xdist's workers, which inherit it: two processes on
# two cores, whose idle threads spin, take three times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import checked_calls  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

checked_calls.install()

# A minute of one core and more. They come first: left to the end, one of two workers has nothing to
# do meanwhile.
LONG_FILES = (
    "test_wheel.py",
    "test_sanitizers.py",
    "test_gpu_compile.py",
    "test_fit_surface.py",
    "test_surface_runs.py",
    "test_commands.py",
    "test_bench_scenes.py",
    "test_fit.py",
)


def pytest_configure(config):
    """Keeps whole files in our order; xdist would put those of many tests first."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """Long files first, the rest as it was."""
    places = {name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


BACKENDS = [
    "cpu",
    pytest.param("reversed", marks=pytest.mark.host_build),
    pytest.param("emulated", marks=pytest.mark.host_build),
    pytest.param("cuda", marks=pytest.mark.gpu),
]


@pytest.fixture(params=BACKENDS)
def device(request, monkeypatch):
    """The device of a test's tensors, once for each implementation of the kernels.

    cpu: the native module; reversed: its lanes backwards; emulated: the CUDA launch path on a block
    of threads; cuda: a GPU (`-m gpu`).
    """
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    wish = request.param if request.param in ("reversed", "emulated") else ""
    monkeypatch.setenv("POLYFIELD_BACKEND", wish)
    return torch.device("cuda" if request.param == "cuda" else "cpu")


@pytest.fixture(scope="session")
def disc_scene(tmp_path_factory):
    """A folder of six 16x16 views that face a disc: its colour a ramp, its rim half transparent."""
    from polyfield.apps.formats.nerf_synthetic import write_nerf_synthetic

    size, up = 16, torch.tensor([0.0, 0.0, 1.0])
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, size)] * 2, indexing="ij")
    views = []
    for i in range(6):
        turn = torch.tensor(1.05 * i)
        way = torch.stack([turn.cos(), turn.sin(), 0.6 * (3 * turn).cos()])
        forward = -way / way.norm()
        right = torch.linalg.cross(forward, up)
        right = right / right.norm()
        axes = [right, torch.linalg.cross(forward, right), forward, -4 * forward]
        alpha = (4 * (0.8 - x.hypot(y))).clamp(0, 1)
        image = torch.stack([0.5 + 0.4 * x, 0.5 - 0.4 * y, turn / 7 + 0 * x, alpha], 2)
        views.append((f"r_{i}", torch.stack(axes, 1), (255 * image).round().to(torch.uint8)))
    folder = tmp_path_factory.mktemp("scenes") / "disc"
    write_nerf_synthetic(folder, {"train": views, "val": views[:1], "test": views[:1]}, 0.7)
    return folder


@pytest.fixture
def tiny_cuda_nn_library():
    """What does on the CPU what the module `tinycudann` does on a GPU."""
    import tiny_cuda_nn_stand_in

    return tiny_cuda_nn_stand_in
