"""What `polyfield train` can be told. Apart from train.py, so that its help needs no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from polyfield.apps.option_help import DEVICE, optional
from polyfield.apps.schedule import MOST_STEPS
from polyfield.cuda.errors import InputError

Pixel = Literal["centre", "point", "mean"]
Surface = Literal["none", "neus", "volsdf", "neudf"]
Networks = Literal["polyfield", "tiny-cuda-nn"]
Densify = Literal["mcmc", "classic", "absgrad", "multi-view"]
Space = Literal["auto", "bounded", "unbounded", "ndc"]
MOST_HARD = 0.5  # of a batch, that are hard rays
MOST_DISTORTION = 1e3


@dataclass(frozen=True)
class Train:
    """Train a field from posed images."""

    scene: Annotated[Positional[Path | None], optional("[SCENE]")] = None
    """Folder of posed images. Not needed with --from and --resume, which know it."""
    field: str = "hash-grid"
    """Kind of field to train."""
    out: Annotated[Path | None, optional("RUN")] = None
    """Folder for everything the run writes. The default is runs/<scene>-<field>."""
    images: Annotated[str | None, optional("FOLDER")] = None
    """Folder in the scene whose copies of the photographs are used, such as images_4. The default
    is the largest whose longer side is at most 1,600 pixels."""
    minutes: Annotated[float | None, optional("M")] = None
    """Time budget, from the command's start to the last checkpoint. The default is 3."""
    steps: Annotated[int | None, optional("N")] = None
    """Number of optimisation steps, instead of a time budget."""
    memory: Annotated[float | None, optional("GB")] = None
    """Memory that the whole process stays within (1 GB is 10^9 bytes): it decides how many
    photographs are kept decoded, and the sizes of batches and tables. The default is half of the
    machine's, 4 at most."""
    device: Annotated[str, DEVICE] = "auto"
    """Where to train. auto takes a usable GPU, else the CPU, and says which."""
    seed: Annotated[int, arg(metavar="S")] = 0
    """Seed of every random number of the run."""
    space: Space = "auto"
    """Shape of the space that the field fills. bounded: cubes with even detail, nested where there
    is a background. unbounded: detail in the finest cube, all that lies behind drawn together, also
    where an object stands alone. ndc: as cameras see it that all look one way, a detail as large as
    a pixel at every distance. auto is bounded, its cubes chosen by cameras, sparse points and
    images, and says what it chose."""
    pixel: Pixel = "centre"
    """Where training rays go through their pixels: through the centre, through one random point,
    or through two points whose mean colour is compared with the photograph's."""
    loss: Literal["squared", "huber"] = "squared"
    """Error of colours that training minimises; huber goes on as a straight line beyond 0.1, so
    that what moved between the photographs pulls less."""
    sampler: Literal["occupancy", "importance", "proposal"] = "occupancy"
    """Where samples lie along rays: in cells of a grid that follows the field, where a first round
    through the field found its weights, or where a small network proposes that learns beside it."""
    distortion: Annotated[float | None, optional("W")] = None
    """Weight of the distortion loss, which gathers what a ray sees in one place and so clears fog;
    it shrinks with the learning rate. The default is 0.1 where masks tell an object from its
    background, else 0.01; 0 suits what is transparent."""
    hard_rays: Annotated[float, arg(metavar="SHARE")] = 0.0
    """Part of each batch, up to 0.5, that are rays on which the field was most wrong before."""
    sizes: Annotated[str, arg(metavar="NAME=VALUE,...", name="set", help_behavior_hint="")] = ""
    """Sizes of the field in place of those that would be chosen, such as levels=12,hidden=64; what
    it says of its plan has their names."""
    total_variation: Annotated[float, arg(metavar="W")] = 0.0
    """Weight of the roughness of planes, for --field tri-plane: what few photographs show is then
    drawn smoothly from one to the next."""
    surface: Surface = "none"
    """Learn distances to a surface, below 0 inside, in place of densities: for meshes. neus and
    volsdf are ways from a distance to a density; neus is exact where views graze the surface. neudf
    is for what has no inside, such as cloth: its surface may end."""
    eikonal: Annotated[float, arg(metavar="W")] = 0.01
    """Weight of the error of slopes of distances, which are 1 everywhere, for --surface."""
    curvature: Annotated[float, arg(metavar="W")] = 0.0
    """Weight of the curvature of distances, for --surface: smoother where photographs show little,
    and less of small detail."""
    coarse_to_fine: Annotated[int, arg(metavar="N")] = 0
    """Steps over which the levels of the hash grid open, the coarsest first, for --surface: slopes
    are then looked at over cells of the finest one that is open. 0: all are open at once."""
    depth: Annotated[float, arg(metavar="W")] = 0.0
    """Weight of the scene's depth images: rays are drawn to end where those say."""
    learned_background: Annotated[bool, arg(help_behavior_hint="")] = False
    """Learn what lies behind the field, by direction, in place of one colour: for skies."""
    exposure: Annotated[bool, arg(help_behavior_hint="")] = False
    """Learn how bright each photograph came out, a channel each, so that the field does not have
    to explain it. Views show the mean exposure."""
    appearance: Annotated[int, arg(metavar="N")] = 0
    """Numbers of each photograph, learned, that the colours in its light depend on: for captures
    over hours or days. Views show the mean light."""
    networks: Networks = "polyfield"
    """Whose kernels train the hash grid and its networks. tiny-cuda-nn has to be installed, and
    runs on a CUDA device alone, in half precision; the run's files are the same."""
    splats: Annotated[int | None, optional("N")] = None
    """Gaussians at most, for --field gaussians. The default follows from photographs and time."""
    densify: Densify = "mcmc"
    """How the number of Gaussians changes: mcmc moves those that have given up to where others are;
    classic and absgrad clone and split what is pulled about, by gradients or their absolute values;
    multi-view does so where several photographs agree that something is wrong."""
    antialiased: Annotated[bool, arg(help_behavior_hint="")] = False
    """Gaussians keep their light where they are smaller than a pixel: for views from farther away
    than the photographs. Files say so, but not every viewer looks."""
    refine_poses: Annotated[bool, arg(help_behavior_hint="")] = False
    """Learn how far the photographs' poses are off, with Gaussians. Each photograph keeps a
    correction only if pixels of it that nothing is trained on are no worse for it."""
    init: Annotated[Path | None, optional("RUN")] = None
    """Run on whose surface Gaussians begin, in place of sparse points, silhouettes or rays."""
    resume: Annotated[bool, arg(help_behavior_hint="")] = False
    """Go on with the run in --out from its last checkpoint, with the plan it began with."""
    report: Annotated[bool, arg(help_behavior_hint="")] = True
    """Leave out the final evaluation and report.html, which come after the time budget."""
    from_config: Annotated[Path | None, optional("CONFIG", "from")] = None
    """config.json of a run to repeat exactly: scene, field, plan and seed come from it."""


def check(options: Train) -> None:
    """Refuse what makes no sense together or out of range, before anything is read or written.

    Raises InputError, which names the option.
    """
    given = {
        "SCENE": options.scene is not None,
        "--minutes": options.minutes is not None,
        "--steps": options.steps is not None,
        "--from": options.from_config is not None,
        "--resume": options.resume,
    }

    def together(first: str, second: str, remedy: str) -> None:
        if given[first] and given[second]:
            raise InputError(f"{first} and {second}", "both are given", "one of them", remedy)

    together("--minutes", "--steps", "")
    together("--from", "--resume", "--resume repeats the plan of the run in --out as it is.")
    for budget in ("--minutes", "--steps"):
        together("--from", budget, "--from takes the steps of the run that it repeats.")
    if options.scene is None and options.from_config is None:
        if not options.resume:
            raise InputError("SCENE", "is not given", "a folder of posed images")
        if options.out is None:
            raise InputError(
                "--resume", "neither SCENE nor --out is given", "the run to go on with"
            )
    for name, value in (("--minutes", options.minutes), ("--memory", options.memory)):
        if value is not None and not 0 < value <= 1e6:
            raise InputError(name, str(value), "a number above 0, at most a million")
    if options.distortion is not None and not 0 <= options.distortion <= MOST_DISTORTION:
        expected = f"a number from 0 to {MOST_DISTORTION:g}"
        raise InputError("--distortion", str(options.distortion), expected)
    if not 0 <= options.hard_rays <= MOST_HARD:
        raise InputError("--hard-rays", str(options.hard_rays), f"0 to {MOST_HARD:g}")
    if options.hard_rays and options.pixel == "mean":
        raise InputError("--hard-rays", "with --pixel mean", "--pixel centre or point")
    weights = (
        ("--depth", options.depth),
        ("--total-variation", options.total_variation),
        ("--eikonal", options.eikonal),
        ("--curvature", options.curvature),
    )
    for name, weight in weights:
        if not 0 <= weight <= MOST_DISTORTION:
            raise InputError(name, str(weight), f"a number from 0 to {MOST_DISTORTION:g}")
    if options.total_variation and options.field != "tri-plane":
        got = f"{options.total_variation:g} with --field {options.field}"
        raise InputError("--total-variation", got, "--field tri-plane")
    if options.surface != "none" and (options.field == "mlp" or options.networks != "polyfield"):
        got = f"{options.surface[:80]} with --field {options.field}, --networks {options.networks}"
        raise InputError("--surface", got, "a field with an encoding, and polyfield's networks")
    if not 0 <= options.coarse_to_fine <= MOST_STEPS:
        got = str(options.coarse_to_fine)[:80]
        raise InputError("--coarse-to-fine", got, f"0 to {MOST_STEPS:,} steps")
    if options.coarse_to_fine and (options.surface == "none" or options.field != "hash-grid"):
        got = f"with --surface {options.surface[:80]}, --field {options.field}"
        raise InputError("--coarse-to-fine", got, "a surface on --field hash-grid")
    _check_kinds(options)
    if options.networks != "polyfield" and options.field != "hash-grid":
        got = f"{options.networks[:80]} with --field {options.field}"
        raise InputError("--networks", got, "--field hash-grid")
    if options.steps is not None and not 1 <= options.steps <= MOST_STEPS:
        raise InputError("--steps", str(options.steps)[:80], f"1 to {MOST_STEPS:,}")
    if not 0 <= options.seed < 2**63:
        raise InputError("--seed", str(options.seed)[:80], "a number from 0 to 2^63 - 1")
    kind, colon, index = options.device.partition(":")
    plain_device = options.device in ("auto", "cpu", "cuda")
    if not plain_device and not (kind == "cuda" and colon and index.isascii() and index.isdigit()):
        raise InputError("--device", repr(options.device), "auto, cpu, cuda or cuda:<number>")


# Options of fields that have densities, and of Gaussians, which have none.
_OF_DENSITIES = (
    "space", "pixel", "loss", "sampler", "distortion", "surface", "appearance",
    "learned_background", "hard_rays",
)  # fmt: skip
_OF_GAUSSIANS = "splats", "densify", "antialiased", "refine_poses", "init"


def _check_kinds(options: Train) -> None:
    """InputError for an option that the field has no use for."""
    gaussians = options.field == "gaussians"
    plain = Train()
    for name in _OF_DENSITIES if gaussians else _OF_GAUSSIANS:
        value = getattr(options, name)
        if value != getattr(plain, name):
            got = f"{str(value)[:80]} with --field {options.field[:80]}"
            expected = "a field with densities" if gaussians else "--field gaussians"
            raise InputError(f"--{name.replace('_', '-')}", got, expected)
    if options.splats is not None and not 4 <= options.splats <= 1 << 26:
        raise InputError("--splats", str(options.splats)[:80], "4 to 67,108,864")
