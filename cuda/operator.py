"""How torch sees an operation: a registered operator with an implementation and a fake.

The autograd side stays with each operation, as a torch.autograd.Function around its operators: half
the forward cost of registering a backward, and whole-graph compilation works as well.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

# At module level: the registrations live as long as this object.
_library = torch.library.Library("polyfield", "FRAGMENT")


def define(schema: str, implementation: Callable, fake: Callable) -> Callable:
    """Registers `polyfield::<schema>` for CPU and CUDA tensors and returns it ready to call.

    schema: torch's operator schema, `name(Tensor x, int k) -> Tensor`. implementation: allocates
    and launches. fake: the allocation alone, for fake tensors and torch.compile.
    """
    name = schema.split("(")[0]
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(name, implementation, "CPU")
    _library.impl(name, implementation, "CUDA")
    torch.library.register_fake(f"polyfield::{name}", fake, lib=_library)
    return getattr(torch.ops.polyfield, name).default
