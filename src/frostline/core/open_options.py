"""Keys that may be added to `optimizer.options` and `search.options`, known without importing torch or Optuna."""

from __future__ import annotations

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
