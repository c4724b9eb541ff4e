"""Dr.Jit's hash grid on LLVM, over our tables: an opponent of the kernels."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.apps.bench_race import Absent
from polyfield.cuda.hash_grid import HashGridLayout

# Entries up to which Dr.Jit gives each thread its own copy of an array that is summed into, instead
# of atomic additions. Its default is 10^6; for tables of 12 million numbers copies take half the
# time, and the memory is there.
EXPANDED = 1 << 30
DEFAULT_EXPANDED = 1_000_000


class DrJitGrid:
    """`drjit.nn.HashGridEncoding` holding `table`, asked for its features at x.

    Uses torch's number of threads. Kernels are compiled at the first call and cached; every call
    ends with its results computed. expanded: see EXPANDED; a setting of the whole process.
    Dr.Jit computes the scales of levels in double precision and tiny-cuda-nn in single; here they
    are the layout's, so that both sides read the same nodes. It pads levels to another size, which
    changes where nodes past the last one wrap to: that differs where x is within half a cell of 1.
    Raises Absent without Dr.Jit or the LLVM library that it needs.
    """

    def __init__(
        self,
        x: Float[Tensor, "n 3"],
        table: Float[Tensor, "{layout.entries} {layout.features}"],
        layout: HashGridLayout,
        expanded: int = EXPANDED,
    ):
        self.drjit, types, networks = _modules()
        self.drjit.set_thread_count(torch.get_num_threads())
        self.expanded, self.layout, self.types = expanded, layout, types

        class LayoutGrid(networks.HashGridEncoding):  # type: ignore[misc, name-defined]
            def _level_scale(self, level: int) -> float:
                return layout.scales[level]

        self.encoding = LayoutGrid(
            types.Float,
            layout.dimensions,
            n_levels=layout.levels,
            n_features_per_level=layout.features,
            hashmap_size=1 << layout.log2_table_size,
            base_resolution=layout.base_resolution,
        )
        starts = [self.encoding.level_offset(level) for level in range(layout.levels + 1)]
        self.sizes = [b - a for a, b in zip(starts, starts[1:], strict=False)]
        parts = zip(layout.offsets, self.sizes, strict=False)
        packed = torch.cat([table.detach()[start : start + size] for start, size in parts])
        self.table = types.Float(packed.reshape(-1).numpy())
        self.x = self.columns(x)

    def columns(self, rows: Float[Tensor, "n k"]) -> Any:
        """Rows of a tensor in Dr.Jit's own form: one array a column."""
        held = self.types.ArrayXf(np.ascontiguousarray(rows.detach().numpy().T))
        self.drjit.eval(held)
        self.drjit.sync_thread()
        return held

    def features(self) -> Any:
        """Features at x."""
        self.encoding.data = self.table
        features = self.encoding(self.x)
        self.drjit.eval(features)
        self.drjit.sync_thread()
        return features

    def features_and_gradient(self, grad: Any) -> tuple[Any, Any]:
        """Features at x, and the gradient of the table for a gradient of theirs (of `columns`)."""
        dr = self.drjit
        dr.set_expand_threshold(self.expanded)
        table = self.types.Float(self.table)
        dr.enable_grad(table)
        self.encoding.data = table
        features = self.encoding(self.x)
        dr.eval(features)
        dr.set_grad(features, grad)
        dr.enqueue(dr.ADMode.Backward, features)
        dr.traverse(dr.ADMode.Backward)
        gradient, features = dr.grad(table), dr.detach(features)
        dr.eval(gradient)
        dr.sync_thread()
        return features, gradient

    def rows(self, columns: Any) -> Float[Tensor, "n k"]:
        """`columns` undone."""
        return torch.from_numpy(np.array(columns)).T

    def entries(
        self, gradient: Any
    ) -> Float[Tensor, "{self.layout.entries} {self.layout.features}"]:
        """The gradient of Dr.Jit's table in the places of ours; zero in our padding."""
        packed = torch.from_numpy(gradient.numpy()).reshape(-1, self.layout.features)
        ours = torch.zeros(self.layout.entries, self.layout.features)
        parts = packed.split(self.sizes)
        for start, part in zip(self.layout.offsets, parts, strict=False):
            ours[start : start + len(part)] = part
        return ours


def drjit_version() -> str:
    """Of Dr.Jit and of the LLVM that compiles for it."""
    drjit, _, _ = _modules()
    return f"{version('drjit')}, LLVM {'.'.join(map(str, drjit.detail.llvm_version()))}"


def _modules() -> tuple[Any, Any, Any]:
    try:
        drjit = import_module("drjit")
    except ImportError as error:
        raise Absent(f"{error}; pip install 'polyfield[bench]'") from error
    if not drjit.has_backend(drjit.JitBackend.LLVM):
        raise Absent("Dr.Jit finds no libLLVM; install LLVM or set DRJIT_LIBLLVM_PATH to its file")
    return drjit, import_module("drjit.llvm.ad"), import_module("drjit.nn")
