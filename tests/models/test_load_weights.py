"""Loading weights: they must fit the network below its head, or every difference is named."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from families import member
from frostline.core.errors import UserError
from frostline.models import load_weights


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


def test_head_of_another_shape_stays_new() -> None:
    module, state = net(), net().state_dict() | {"2.weight": torch.zeros(9, 4), "2.bias": torch.zeros(9)}
    before = module[2].weight.clone()
    load_weights.load_into(module, state, ["2"], source="w.pt")
    assert torch.equal(module[2].weight, before)
    assert torch.equal(module[0].weight, state["0.weight"])


def test_fitting_head_is_loaded_and_missing_head_stays_new() -> None:
    module, state = net(), net().state_dict()
    load_weights.load_into(module, state, ["2"], source="w.pt")
    assert torch.equal(module[2].weight, state["2.weight"])
    without = {name: torch.zeros_like(tensor) for name, tensor in state.items() if not name.startswith("2.")}
    load_weights.load_into(module, without, ["2"], source="w.pt")
    assert torch.equal(module[2].weight, state["2.weight"])
    assert not module[0].weight.any()


def test_other_differences_are_refused_with_details() -> None:
    state: dict[str, Tensor] = net().state_dict()
    del state["1.running_mean"]
    state |= {"0.weight": torch.zeros(8, 3, 3, 3), "5.a": torch.zeros(1), "5.b": torch.zeros(1)}
    with pytest.raises(UserError) as caught:
        load_weights.load_into(net(), state, ["2"], source="w.pt")
    assert str(caught.value) == (
        "model.weights=w.pt: weights do not fit the network outside its head: 1 missing: 1.running_mean; "
        "2 unexpected: 5.a, 5.b; 1 of another shape: 0.weight 8x3x3x3 instead of 4x3x3x3"
    )


def test_files_without_batch_counters_are_read() -> None:
    module, state = net(), net().state_dict()
    module[1].num_batches_tracked += 5
    del state["1.num_batches_tracked"]
    load_weights.load_into(module, state, ["2"], source="w.pt")
    assert module[1].num_batches_tracked == 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_nan_and_infinity_are_refused(value: float) -> None:
    state = {f"m.{name}": tensor.clone() for name, tensor in net().state_dict().items()}
    state["m.0.weight"].view(-1)[7] = value
    with pytest.raises(UserError, match=r"^model.weights=w.pt: .*; nan or infinity is in 0.weight$"):
        load_weights.load_into(net(), state, ["2"], source="w.pt")


@pytest.mark.parametrize("special", [Tensor.to_sparse, lambda tensor: tensor.to("meta")], ids=["sparse", "meta"])
def test_tensors_that_are_not_dense_do_not_count(special: Callable[[Tensor], Tensor]) -> None:
    state = net().state_dict()
    state |= {"0.weight": special(state["0.weight"]), "mask": special(torch.ones(2))}
    with pytest.raises(UserError, match=r"outside its head: 1 missing: 0.weight$"):
        load_weights.load_into(net(), state, ["2"], source="w.pt")


def older(name: str, key: str) -> str:
    """Return the name of `key` in torchvision's older files."""
    if name.startswith("densenet"):
        return re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key)
    return key.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2.")


@pytest.mark.parametrize("name", ["densenet", "vit"])
def test_older_tensor_names_are_understood(name: str) -> None:
    source, read = member(name), member(name)
    state = {older(name, key): tensor + 1 for key, tensor in source.module.state_dict().items()}
    assert state.keys() != source.module.state_dict().keys()
    load_weights.load_into(read.module, state, read.structure.heads, source="w.pt")
    assert all(torch.equal(read.module.state_dict()[key], t + 1) for key, t in source.module.state_dict().items())
