"""Several linear layers as one: their parameters and gradients in common tensors, their products computed together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from frostline.training import gradient

Products = Literal["per seed", "batched", "single"]
"""How the matrix products of all layers are computed. `per seed`: the layers of a seed, which have equal inputs, act as
one layer; `batched`: one batched product; `single`: a product per layer, as if it were alone."""


class StackedLinear:
    """Linear layers of one shape: `L` layers `(classes, D)`, whose parameters become views of common tensors."""

    def __init__(self, layers: Sequence[nn.Linear], seeds: Sequence[int]) -> None:
        """Stack `layers`; layer i reads the inputs with the number `seeds[i]`. Equal numbers are adjacent."""
        self._layers, self._inputs = layers, len(set(seeds))
        self._seed_of = torch.tensor(seeds, device=layers[0].weight.device)
        self.weight, self.weight_grad = _stacked([layer.weight for layer in layers])
        biases = [layer.bias for layer in layers]
        self.bias, self.bias_grad = (None, None) if biases[0] is None else _stacked(biases)
        evenly = len({*Counter(seeds).values()}) == 1
        self.choices: tuple[Products, ...] = ("per seed", "batched", "single") if evenly else ("batched", "single")
        """The possible values of `products`, the fastest first."""
        self.products: Products = "batched"

    def of_each(self, by_seed: Tensor) -> Tensor:
        """Expand a tensor `(seeds, ...)` to `(L, ...)`."""
        if self._inputs == 1:
            return by_seed.expand(len(self._layers), *by_seed.shape[1:])
        return by_seed if self._inputs == len(self._layers) else by_seed[self._seed_of]

    def take_gradients(self) -> None:
        """Make the layers' gradients views of the stack's."""
        for number, layer in enumerate(self._layers):
            layer.weight.grad = self.weight_grad[number]
            if self.bias_grad is not None:
                layer.bias.grad = self.bias_grad[number]

    def logits(self, inputs: Tensor) -> Tensor:
        """Return the logits `(L, classes, B)` for inputs `(seeds, B, D)`."""
        if self.products == "single":
            biases = [None] * len(self._layers) if self.bias is None else self.bias
            every = zip(self.weight, biases, self.of_each(inputs), strict=True)
            return torch.stack([gradient.products(*one) for one in every])
        layers, inputs = self._together(inputs)
        bias = None if self.bias is None else self.bias.view(layers)
        return gradient.products(self.weight.view(*layers, -1), bias, inputs).view(*self.weight.shape[:2], -1)

    def set_gradients(self, error: Tensor, inputs: Tensor) -> None:
        """Set the gradients for the gradient `(L, classes, B)` of the logits and inputs `(seeds, B, D)`."""
        if self.products == "single":
            torch.stack([one @ x for one, x in zip(error, self.of_each(inputs), strict=True)], out=self.weight_grad)
        else:
            layers, inputs = self._together(inputs)
            multiply = torch.mm if inputs.dim() == 2 else torch.bmm
            multiply(error.view(*layers, -1), inputs, out=self.weight_grad.view(*layers, inputs.shape[-1]))
        if self.bias_grad is not None:
            torch.sum(error, 2, out=self.bias_grad)

    def _together(self, inputs: Tensor) -> tuple[tuple[int, ...], Tensor]:
        """Return the shape of the layers in one product, `(groups, rows)` or `(rows,)`, and the inputs of each."""
        if self.products == "batched":
            return tuple(self.weight.shape[:2]), self.of_each(inputs)
        rows = self.weight.shape[:2].numel() // self._inputs
        return ((rows,), inputs[0]) if self._inputs == 1 else ((self._inputs, rows), inputs)


def _stacked(parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return one tensor with all parameters, which become views of it, and one for their gradients."""
    together = torch.stack([parameter.detach() for parameter in parameters])
    for parameter, view in zip(parameters, together.unbind(), strict=True):
        parameter.data = view
    return together, torch.zeros_like(together)
