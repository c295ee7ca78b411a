"""Join several optimizers of one class into one step, for heads that train in lockstep.

torch's own step collects all parameters anew, group by group, which for a head takes several times as long as its
kernels. Here this is done once; from then on the kernels are called with the collected arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from frostline.training.schedule import Rates

_Kernel = Callable[..., object]
"""Takes a step on the parameters of a group with the learning rate `lr`."""


class JoinedOptimizer:
    """Takes the steps of several optimizers at once; they share its state from now on."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer], rates: Sequence[Rates]) -> None:
        """Join `optimizers` of one class. The gradients must always be written into the same tensors.

        Optimizers with equal `rates` have equal learning rates at every step. Their groups with equal options are
        merged into one, with one kernel launch; each parameter keeps its own state.
        """
        alike: dict[str, tuple[Rates, list[dict[str, Any]]]] = {}
        for one, its in zip(optimizers, rates, strict=True):
            for group in one.param_groups:
                options = {key: value for key, value in group.items() if key not in ("params", "lr")}
                alike.setdefault(repr((its, options)), (its, []))[1].append(group)
        self._rates = [its for its, _ in alike.values()]
        params = [[one for group in groups for one in group["params"]] for _, groups in alike.values()]
        self._params: list[nn.Parameter] = [one for its in params for one in its]
        kind: Callable[..., torch.optim.Optimizer] = type(optimizers[0])
        self._optimizer = kind(
            [{**groups[0], "params": its} for (_, groups), its in zip(alike.values(), params, strict=True)]
        )
        for one in optimizers:
            self._optimizer.state.update(one.state)
        for one in optimizers:
            one.state = self._optimizer.state
        self._kernels: list[_Kernel] = []
        self._counts: list[Tensor] = []
        device = self._params[0].device
        self._lr = torch.zeros(len(self._rates), device=device) if device.type == "cuda" else None
        """Learning rates that the groups' kernels read on a GPU, so that a captured step uses the current ones."""
        self._lr_there: list[float] = []

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The param groups, as of a torch optimizer."""
        return self._optimizer.param_groups

    @property
    def can_be_captured(self) -> bool:
        """Whether a step consists only of kernels that read everything from the device; False before the first step."""
        return bool(self._kernels) and self._lr is not None

    def changed(self) -> list[Tensor]:
        """Return all tensors that a step changes."""
        return [*self._params, *(kept for one in self._params for kept in self._optimizer.state[one].values())]

    def set_rates(self, number: int) -> None:
        """Set the learning rates of the next step, whose 0-based number is `number`."""
        for group, rates in zip(self.param_groups, self._rates, strict=True):
            rates.set([group], number)
        if self._lr is not None:
            self._send([group["lr"] for group in self.param_groups], self._lr)

    def _send(self, rates: list[float], there: Tensor) -> None:
        if rates != self._lr_there:
            there.copy_(torch.tensor(rates).pin_memory(), non_blocking=True)
            self._lr_there = rates

    @torch.no_grad()
    def step(self) -> None:
        """Take the step of every optimizer; the caller must call `count_write`."""
        if not self._kernels:
            self._optimizer.step()  # creates the state
            self._find_kernels()
            return
        if self._counts:
            torch._foreach_add_(self._counts, 1)
        rates = [group["lr"] for group in self.param_groups] if self._lr is None else self._lr
        for kernel, lr in zip(self._kernels, rates, strict=True):
            kernel(lr=lr)

    def count_write(self) -> None:
        """Count a step as a write to the parameters in torch, which neither kernels nor captured steps do."""
        increment_version(self._params)

    def _find_kernels(self) -> None:
        """Collect the kernel call of each group, if torch's step is one fused kernel per group."""
        find = _FOUND.get(type(self._optimizer))
        if find is None or not all(group["fused"] for group in self.param_groups):
            return
        state = self._optimizer.state
        self._kernels = [find(group, [state[one] for one in group["params"]]) for group in self.param_groups]
        self._counts = [state[one]["step"] for one in self._params if "step" in state[one]]


def _adam(group: dict[str, Any], states: Sequence[dict[str, Any]]) -> _Kernel:
    return partial(
        torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_,
        group["params"],
        [one.grad for one in group["params"]],
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [state["max_exp_avg_sq"] for state in states] if group["amsgrad"] else [],
        [state["step"] for state in states],
        amsgrad=group["amsgrad"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=group["maximize"],
    )


def _sgd(group: dict[str, Any], states: Sequence[dict[str, Any]]) -> _Kernel:
    return partial(
        torch._fused_sgd_,
        group["params"],
        [one.grad for one in group["params"]],
        [state["momentum_buffer"] for state in states] if group["momentum"] else [],
        weight_decay=group["weight_decay"],
        momentum=group["momentum"],
        dampening=group["dampening"],
        nesterov=group["nesterov"],
        maximize=group["maximize"],
        is_first_step=False,
    )


_FOUND = {torch.optim.Adam: _adam, torch.optim.AdamW: _adam, torch.optim.SGD: _sgd}
"""For each optimizer class, the function that returns the kernel call of a group, given its parameters' states."""
