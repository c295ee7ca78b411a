"""Commands under torchrun, which starts one process per device: the command runs once, on all devices."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from frostline.core.errors import UserError, user_error


def once(typed: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Return the `typed` overrides, with `devices` set to torchrun's number of processes if it started this one.

    The first process starts the other processes of a run itself; those of torchrun exit here with status 0.
    """
    if "TORCHELASTIC_RUN_ID" not in environment:
        return [*typed]
    if environment.get("GROUP_WORLD_SIZE", "1") != "1":
        line = "torchrun --nnodes: expected one machine, on whose devices a run trains: train.py devices=<their number>"
        raise UserError(line)
    if environment["RANK"] != "0":
        sys.exit(0)
    count = environment["WORLD_SIZE"]
    for argument in typed:
        key, _, value = argument.lstrip("+").partition("=")
        if key == "devices" and value != count:
            raise user_error(key, value, f"{count}, as torchrun --nproc-per-node says, or no torchrun")
    return [*(argument for argument in typed if not argument.startswith("devices=")), f"devices={count}"]
