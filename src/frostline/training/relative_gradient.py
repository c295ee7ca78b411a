"""Relative gradient norm (RGN) of each stage: the norm of its gradient divided by the norm of its weights.

Y. Lee et al., Surgical Fine-Tuning Improves Adaptation to Distribution Shifts, ICLR 2023 (arXiv:2210.11466, section 5);
here per stage instead of per layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from frostline.training.criterion import Targets
from frostline.training.evaluation import evaluating
from frostline.training.gradient import by_autograd


def relative_gradient_norms(
    module: nn.Module,
    stage_of: Callable[[str], str],
    batches: Iterable[tuple[Tensor, Tensor]],
    autocast: torch.dtype | None,
) -> dict[str, float]:
    """Return, by stage, the norm of the mean loss's gradient divided by the norm of the weights.

    `batches` are inputs and labels `(B,)`, `stage_of` returns the stage of a parameter by its name. The network runs in
    eval mode. Afterwards modes and `requires_grad` are restored, and gradients are None.
    """
    parameters = dict(module.named_parameters())
    learning = {name for name, parameter in parameters.items() if parameter.requires_grad}
    module.requires_grad_(True).zero_grad()
    count = 0
    with evaluating(module):
        for inputs, labels in batches:
            by_autograd(module, inputs, Targets(labels, labels, 1.0, 0.0), autocast)
            count += 1
    squares: dict[str, tuple[Tensor, Tensor]] = {}
    for name, parameter in parameters.items():
        if parameter.grad is not None:  # a second head that eval mode does not use has none
            pull, weight = squares.get(stage_of(name), (0.0, 0.0))
            new = (parameter.grad.double().square().sum(), parameter.detach().double().square().sum())
            squares[stage_of(name)] = (pull + new[0], weight + new[1])
        parameter.requires_grad_(name in learning).grad = None
    return {stage: float((pull / weight).sqrt()) / count for stage, (pull, weight) in squares.items()}
