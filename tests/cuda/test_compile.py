"""torch.compile sees each operation as one node: in a process without the tests' shape checks."""

import subprocess
import sys

PROGRAM = """
import torch
from polyfield.cuda.hash_grid import HashGridLayout, hash_grid
from polyfield.cuda.mlp import initial_weights, mlp
from polyfield.cuda.spherical_harmonics import spherical_harmonics

layout = HashGridLayout(levels=4, features=2, log2_table_size=8, finest_resolution=64)
table = torch.randn(layout.entries, 2).requires_grad_()
weights = initial_weights((24, 16, 3), torch.Generator().manual_seed(0)).requires_grad_()

def shade(directions):
    both = torch.cat([spherical_harmonics(directions, 3), hash_grid(directions, table, layout)], 1)
    return mlp(both, weights, (24, 16, 3), "relu", "sigmoid")

directions = torch.nn.functional.normalize(torch.randn(70, 3), dim=1)
expected = torch.autograd.grad(shade(directions).square().sum(), (weights, table))
compiled = torch.compile(shade, fullgraph=True, backend="aot_eager")
got = torch.autograd.grad(compiled(directions).square().sum(), (weights, table))
torch.testing.assert_close(got, expected)
print("same")
"""


def test_a_compiled_graph_has_no_break_and_the_same_gradient():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.stdout == "same\n", done.stderr[-2000:]
