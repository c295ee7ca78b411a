"""Networks of timm that do not declare what frostline derives stages from are refused."""

from __future__ import annotations

import pytest
from torch import nn

from frostline.core.errors import UserError
from frostline.models.timm_stages import structure_of


class _Undeclared(nn.Module):
    """Has a head, and does not say which layers are its stages."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, 3, 1), head

    def get_classifier(self) -> nn.Module:
        return self.fc


@pytest.mark.parametrize(
    ("network", "lacks"),
    [
        (nn.Linear(2, 2), "a head that learns"),
        (_Undeclared(nn.Identity()), "a head that learns"),
        (_Undeclared(nn.Linear(2, 2)), "its layers in groups"),
    ],
)
def test_network_that_declares_no_head_or_stages_is_refused(network: nn.Module, lacks: str) -> None:
    with pytest.raises(UserError, match=f"^model.name=.*: expected a network of timm that has {lacks}"):
        structure_of(network, 8)
