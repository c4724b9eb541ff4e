"""Every kernel for every architecture: `polyfield bench compile`."""

from __future__ import annotations

from polyfield.apps.doctor import compile_all, kernel_table

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")


def compile_rows() -> list[dict[str, str | int]]:
    """{kernel, arch, bytes, registers, shared, spill} of all instantiations; minutes of work.

    Prints nothing. Raises as `doctor`, among others where an image takes other arguments than
    Python packs.
    """
    return compile_all(list(ARCHITECTURES))


def compile_summary(rows: list[dict[str, str | int]]) -> str:
    """The table, and its extremes."""
    most = {name: max(int(row[name]) for row in rows) for name in ("registers", "shared", "spill")}
    ends = ", ".join(f"{name} at most {value}" for name, value in most.items())
    return f"{kernel_table(rows)}\n{len(rows)} images; {ends}"
