"""The table of fields: name on the command line -> typed arguments and constructor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Generator, nn

from polyfield.cuda.errors import InputError
from polyfield.fields.field import TrainableField
from polyfield.fields.hash_grid import HashGrid
from polyfield.fields.nerf_mlp import NerfMlp, NerfMlpArguments
from polyfield.fields.radiance import Radiance
from polyfield.fields.rbf import RbfArguments, rbf_field
from polyfield.fields.tri_plane import TriPlaneArguments, tri_plane_field


@runtime_checkable
class FieldArguments(Protocol):
    """Arguments of a field: a frozen dataclass of plain numbers, each with a default."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    samples_per_step: ClassVar[int]
    """Beyond that many, more steps teach the field more than larger ones."""

    @classmethod
    def fitted(cls, resolution: int, parameters: int) -> FieldArguments:
        """Sizes for details of 1 / resolution of the cube's side, in about that many parameters."""
        ...


@dataclass(frozen=True)
class HashGridArguments:
    """Sizes of the hash-grid radiance field."""

    samples_per_step: ClassVar[int] = 1 << 14
    levels: int = 8
    features: int = 4
    log2_table_size: int = 16
    base_resolution: int = 16
    finest_resolution: int = 512
    hidden: int = 48
    harmonics_degree: int = 3
    appearance: int = 0
    """Numbers of each photograph's light that colours depend on."""
    photographs: int = 0

    @classmethod
    def fitted(cls, resolution: int, parameters: int) -> HashGridArguments:
        """Sizes for details of 1 / resolution of the cube's side, in about that many parameters."""
        entries = max(1, parameters // (cls.levels * cls.features))
        return cls(
            finest_resolution=max(cls.base_resolution, resolution),
            log2_table_size=entries.bit_length() - 1,
        )


def hash_grid_field(
    arguments: HashGridArguments,
    generator: Generator | None = None,
    warp: nn.Module | None = None,
) -> Radiance:
    """A radiance field on a multiresolution hash grid. InputError for sizes that make no grid."""
    encoding = HashGrid(
        arguments.levels,
        arguments.features,
        arguments.log2_table_size,
        arguments.base_resolution,
        arguments.finest_resolution,
        generator=generator,
    )
    return Radiance(
        encoding,
        arguments.hidden,
        arguments.harmonics_degree,
        arguments.appearance,
        arguments.photographs,
        warp=warp,
        generator=generator,
    )


# Name on the command line and in checkpoints -> arguments and constructor. A backend is one line.
FIELDS: dict[str, tuple[type[FieldArguments], Callable[..., TrainableField]]] = {
    "hash-grid": (HashGridArguments, hash_grid_field),
    "mlp": (NerfMlpArguments, NerfMlp),
    "tri-plane": (TriPlaneArguments, tri_plane_field),
    "rbf": (RbfArguments, rbf_field),
}


def build_field(
    name: str,
    arguments: dict,
    generator: Generator | None = None,
    warp: nn.Module | None = None,
) -> TrainableField:
    """The field `name` of the table with arguments as a checkpoint holds them.

    warp: what positions go through before they are encoded, see `build_warp`. Raises InputError
    naming an unknown field, an unknown argument, or one of another type.
    """
    if name not in FIELDS:
        raise InputError("field", repr(name[:80]), f"one of {', '.join(FIELDS)}")
    kind, constructor = FIELDS[name]
    known: dict[str, object] = {f.name: f.default for f in fields(kind)}
    for key, value in arguments.items():
        if key not in known:
            raise InputError(
                f"field {name}: argument {key[:80]!r}", "unknown", f"one of {list(known)}"
            )
        if type(value) is not int or not 0 <= value < 1 << 20:
            got = repr(value)[:80]
            raise InputError(f"field {name}: {key}", got, "a whole number below 2^20")
    chosen = kind(**arguments)
    return constructor(chosen, generator, warp)


def with_appearance(arguments: FieldArguments, numbers: int, photographs: int) -> FieldArguments:
    """The same field with a code of so many numbers for the light of each photograph.

    Raises InputError where its colours cannot depend on one.
    """
    if "appearance" not in arguments.__dataclass_fields__:
        raise InputError("--appearance", f"{numbers}: the field has no such code", "0")
    return replace(arguments, appearance=numbers, photographs=photographs)  # type: ignore[type-var]


def arguments_of(arguments: FieldArguments) -> dict[str, int]:
    """Plain values for a checkpoint's metadata."""
    return asdict(arguments)
