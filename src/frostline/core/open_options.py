"""Optimizers, and keys that may be added to `optimizer.options` and `search.options`, without torch and Optuna."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection

from frostline.core import driver
from frostline.core.errors import UserError, user_error

UNFIT = ("optimizer", "lbfgs", "muon", "sparseadam")
"""Classes of `torch.optim` that no run can use, in lower case.

They are the base class; one that evaluates the loss several times per step; one for matrices only; one for sparse
gradients.
"""
OPTIONS = {
    "optimizer": {
        "adam": "amsgrad betas capturable decoupled_weight_decay eps foreach fused maximize",
        "adamw": "amsgrad betas capturable eps foreach fused maximize",
        "rmsprop": "alpha capturable centered eps foreach maximize momentum",
        "sgd": "dampening foreach fused maximize momentum nesterov",
    },
    "search": {
        "grid": "",
        "random": "",
        "qmc": "qmc_type scramble",
        "tpe": "consider_endpoints consider_magic_clip constant_liar group multivariate n_ei_candidates "
        "n_startup_trials prior_weight",
        "gp": "deterministic_objective n_startup_trials",
        "cmaes": "consider_pruned_trials lr_adapt n_startup_trials popsize sigma0 use_separable_cma with_margin x0",
    },
}
"""By group and option of ours, the names of its further keys, separated by blanks."""


@functools.cache
def optimizers() -> tuple[str, ...]:
    """Return the names of the optimizers of the installed `torch.optim`, in lower case; empty if they are not known."""
    imports = driver.source_of_torch("optim/__init__.py")
    found = re.findall(r"^from torch\.optim\.\w+ import ([A-Z]\w*)", imports, re.MULTILINE)
    return tuple(sorted(name.lower() for name in found if name.lower() not in UNFIT))


def unknown_optimizer(name: str, known: Collection[str]) -> UserError:
    """Return the error for an optimizer called `name`, which is none of the `known` ones."""
    return user_error("optimizer.name", name, f"an optimizer of torch.optim ({', '.join(sorted(known))})", known)
