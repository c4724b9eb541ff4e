"""The table of fields: name on the command line -> typed arguments and constructor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields, replace
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, runtime_checkable

from torch import Generator, nn

from polyfield.cuda.errors import InputError
from polyfield.fields.field import TrainableField
from polyfield.fields.gaussians import GaussianArguments
from polyfield.fields.hash_grid import (
    HashGridArguments,
    HashGridSignal,
    hash_grid_field,
    hash_grid_signal,
)
from polyfield.fields.mlp_signal import MlpSignal, mlp_signal
from polyfield.fields.nerf_mlp import NerfMlp, NerfMlpArguments
from polyfield.fields.rbf import RbfArguments, RbfSignal, rbf_field, rbf_signal
from polyfield.fields.signal import Signal
from polyfield.fields.tri_plane import (
    TriPlaneArguments,
    TriPlaneSignal,
    tri_plane_field,
    tri_plane_signal,
)


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


@runtime_checkable
class SignalArguments(Protocol):
    """Arguments of a field of any signal: a frozen dataclass of whole numbers with defaults."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    samples_per_step: ClassVar[int]

    @classmethod
    def fitted(cls, dimensions: int, resolution: int, parameters: int) -> SignalArguments:
        """Sizes for details of 1 / resolution of the cube's side, in at most that many numbers.

        What a file holds counts, centres and shapes of kernels among it. As many as that where
        sizes can be chosen so finely. Raises InputError where there is no such field.
        """
        ...


class SignalBackend(NamedTuple):
    """A kind of field as one of any signal: its sizes and its constructor."""

    arguments: type[SignalArguments]
    build: Callable[..., Signal]
    """Of (arguments, dimensions, channels, generator)."""


class Backend(NamedTuple):
    """A kind of field: its sizes and its constructor; where it has one, its form for signals."""

    arguments: type[FieldArguments]
    field: Callable[..., TrainableField]
    """Of (arguments, generator, warp)."""
    signal: SignalBackend | None = None


Sizes = TypeVar("Sizes", bound="FieldArguments | SignalArguments | GaussianArguments")

# Name on the command line and in checkpoints -> what it is. A backend is one line.
FIELDS: dict[str, Backend] = {
    "hash-grid": Backend(
        HashGridArguments, hash_grid_field, SignalBackend(HashGridSignal, hash_grid_signal)
    ),
    "mlp": Backend(NerfMlpArguments, NerfMlp, SignalBackend(MlpSignal, mlp_signal)),
    "tri-plane": Backend(
        TriPlaneArguments, tri_plane_field, SignalBackend(TriPlaneSignal, tri_plane_signal)
    ),
    "rbf": Backend(RbfArguments, rbf_field, SignalBackend(RbfSignal, rbf_signal)),
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
    backend = FIELDS[name]
    return backend.field(_read(name, backend.arguments, arguments), generator, warp)


def build_signal(
    name: str, arguments: dict, dimensions: int, channels: int, generator: Generator | None = None
) -> Signal:
    """As `build_field`, for a signal of so many channels over a unit cube."""
    backend = signal_backend(name)
    chosen = _read(name, backend.arguments, arguments)
    return backend.build(chosen, dimensions, channels, generator)


def signal_backend(name: str) -> SignalBackend:
    """A field of any signal. InputError where the table has none of that name."""
    backend = FIELDS.get(name)
    if backend is None or backend.signal is None:
        known = [each for each, backend in FIELDS.items() if backend.signal is not None]
        raise InputError("field", repr(name[:80]), f"one of {', '.join(known)}")
    return backend.signal


def _read(name: str, kind: type[Any], arguments: dict) -> Any:
    known = [f.name for f in fields(kind)]
    for key, value in arguments.items():
        if key not in known:
            raise InputError(f"field {name}: argument {key[:80]!r}", "unknown", f"one of {known}")
        if type(value) is not int or not 0 <= value < 1 << 20:
            got = repr(value)[:80]
            raise InputError(f"field {name}: {key}", got, "a whole number below 2^20")
    return kind(**arguments)


def smoothed(arguments: Sizes) -> Sizes:
    """The same field without kinks between the nodes of its grid, where it has a choice."""
    if "smoothstep" not in arguments.__dataclass_fields__:
        return arguments
    return replace(arguments, smoothstep=1)  # type: ignore[type-var]


def with_appearance(arguments: FieldArguments, numbers: int, photographs: int) -> FieldArguments:
    """The same field with a code of so many numbers for the light of each photograph.

    Raises InputError where its colours cannot depend on one.
    """
    if "appearance" not in arguments.__dataclass_fields__:
        raise InputError("--appearance", f"{numbers}: the field has no such code", "0")
    return replace(arguments, appearance=numbers, photographs=photographs)  # type: ignore[type-var]


def with_sizes(arguments: Sizes, wishes: str) -> Sizes:
    """The same field with other sizes: "NAME=VALUE,NAME=VALUE" of its arguments.

    Raises InputError for a name that it does not have, or what is no whole number below 2^20.
    """
    known = [f.name for f in fields(arguments) if f.name not in ("appearance", "photographs")]
    changed = {}
    for wish in wishes.split(","):
        name, _, value = (part.strip() for part in wish.partition("="))
        whole = value.isascii() and value.isdigit() and len(value) < 8 and int(value) < 1 << 20
        if name not in known or not whole:
            expected = f"NAME=VALUE with a whole number below 2^20 and one of {', '.join(known)}"
            raise InputError("--set", repr(wish[:80]), expected)
        changed[name] = int(value)
    return replace(arguments, **changed)  # type: ignore[type-var]


def arguments_of(arguments: FieldArguments | SignalArguments | GaussianArguments) -> dict[str, int]:
    """Plain values for a checkpoint's metadata."""
    return asdict(arguments)
