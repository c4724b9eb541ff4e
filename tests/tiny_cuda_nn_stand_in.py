"""A stand-in for the module `tinycudann`, by its documentation, in plain torch on the CPU.

Only what lies in `params` and what comes out is like the library, in half precision: its matrices
are padded to multiples of 16, inputs of a bare network by ones, and no launch takes no rows.
"""

import torch
from torch import nn

from polyfield.cuda.hash_grid import hash_grid
from polyfield.fields.tiny_cuda_nn import GridConfig

OUTPUTS = {"None": lambda x: x, "Sigmoid": torch.sigmoid}


def up_to_16(width):
    return (width + 15) // 16 * 16


class Network(nn.Module):
    def __init__(self, n_input_dims, n_output_dims, network_config, seed=1337):
        super().__init__()
        assert network_config["activation"] == "ReLU"
        hidden = network_config["n_neurons"]
        assert network_config["otype"] == "CutlassMLP" or hidden in (16, 32, 64, 128)
        self.inputs, self.outputs, self.filler = n_input_dims, n_output_dims, 1.0
        self.output = OUTPUTS[network_config["output_activation"]]
        self.shapes = [(hidden, up_to_16(n_input_dims))]
        self.shapes += [(hidden, hidden)] * (network_config["n_hidden_layers"] - 1)
        self.shapes += [(up_to_16(n_output_dims), hidden)]
        random = torch.Generator().manual_seed(seed)
        weights = sum(rows * columns for rows, columns in self.shapes)
        self.params = nn.Parameter(torch.rand(weights, generator=random) - 0.5)

    def through(self, x, flat):
        assert x.shape[1] == self.inputs and len(x), "a launch of nothing"
        padding = x.new_full((len(x), self.shapes[0][1] - self.inputs), self.filler)
        values = torch.cat([x, padding], 1)
        matrices = flat.split([rows * columns for rows, columns in self.shapes])
        for number, (matrix, shape) in enumerate(zip(matrices, self.shapes, strict=True)):
            values = values @ matrix.view(shape).T
            values = values.relu() if number < len(self.shapes) - 1 else values
        return self.output(values)[:, : self.outputs].half()

    def forward(self, x):
        assert x.dtype == torch.float32 and x.is_contiguous()
        return self.through(x, self.params)


class NetworkWithInputEncoding(Network):
    def __init__(self, n_input_dims, n_output_dims, encoding_config, network_config, seed=1337):
        layout = GridConfig.from_json(encoding_config).layout
        assert n_input_dims == layout.dimensions == 3
        super().__init__(layout.width, n_output_dims, network_config, seed)
        self.layout, self.filler = layout, 0.0
        table = torch.zeros(layout.entries * layout.features)
        self.matrices = len(self.params)
        self.params = nn.Parameter(torch.cat([self.params.detach(), table]))

    def forward(self, x):
        assert x.dtype == torch.float32 and x.is_contiguous()
        matrices, table = self.params.split([self.matrices, len(self.params) - self.matrices])
        table = table.view(self.layout.entries, self.layout.features)
        return self.through(hash_grid(x, table, self.layout), matrices)
