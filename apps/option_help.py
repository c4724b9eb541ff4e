"""How help shows the options of the commands."""

from tyro.conf import arg


def optional(metavar: str, name: str | None = None) -> object:
    """For Annotated: an option that may be left out, whose docstring says what then holds.

    name: of the option, where it is not the field's.
    """
    return arg(metavar=metavar, name=name, help_behavior_hint="")


DEVICE = arg(metavar="auto|cpu|cuda[:n]")
