"""What is said of a search: between which learning rates it makes no difference."""

from __future__ import annotations

import math

from frostline.report.search_words import flat


def test_the_optimum_is_flat_as_far_as_nothing_worse_lies_between() -> None:
    scored = [(1e-4, 0.5), (1e-3, 0.95), (1e-2, 0.96), (1e-1, 0.955), (0.3, 0.9), (1.0, 0.96)]
    assert flat(scored[::-1], 0.02) == (1e-3, 1e-1)
    assert flat(scored, 0.0) == (1e-2, 1e-2)
    assert flat(scored, 1.0) == (1e-4, 1.0)


def test_a_trial_that_diverged_ends_it() -> None:
    assert flat([(1e-3, 0.9), (1e-2, -math.inf), (1e-1, 0.9)], 0.5) == (1e-3, 1e-3)
