"""The fast copy of frozen stages computes the same in fewer operations."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_cut import with_statistics
from timm.layers import Conv2dSame, StdConv2dSame
from torch import fx, nn

from families import MEMBERS, member
from frostline.models import cut, fuse
from frostline.models.build import build

CPU = torch.device("cpu")
FUSES = torch.backends.mkldnn.is_available()


def backbone(name: str) -> tuple[nn.Module, torch.Tensor]:
    """Return all stages of a network except its head, and images for it."""
    model, images = with_statistics(name)
    return cut.halves(model.module, model.structure, model.structure.stages[:-1])[0], images


@pytest.fixture(scope="module", params=MEMBERS)
def family(request: pytest.FixtureRequest) -> tuple[nn.Module, torch.Tensor]:
    return backbone(request.param)


@pytest.mark.slow
def test_folding_batch_norm_keeps_the_features(family: tuple[nn.Module, torch.Tensor]) -> None:
    lower, images = family[0].double(), family[1].double()  # float32 rounding grows in some networks
    with torch.inference_mode():
        features = lower(images)
        fast = fuse.fast_copy(lower, torch.float64, CPU, torch.contiguous_format)(images)
    lower.float()
    torch.testing.assert_close(fast, features, rtol=1e-6, atol=1e-9 * features.abs().max().item())


@pytest.mark.skipif(not FUSES, reason="needs oneDNN")
def test_fusing_keeps_the_features(family: tuple[nn.Module, torch.Tensor]) -> None:
    lower, images = family
    copied = fx.symbolic_trace(copy.deepcopy(lower))
    fuse.fold(copied)
    with torch.inference_mode():
        features = copied(images)  # in float32: bfloat16 rounding grows to 15% in some networks
        fuse.fuse(copied)
        error = (copied(images) - features).norm() / features.norm()
    assert error < 1e-3, error


@pytest.mark.skipif(not FUSES, reason="needs oneDNN")
def test_fused_resnet_consists_of_convolutions() -> None:
    fused = fx.symbolic_trace(backbone("resnet")[0])
    fuse.fold(fused)
    fuse.fuse(fused)
    kinds = {type(layer).__name__ for layer in fused.modules() if not list(layer.children())}
    assert not kinds & {"ReLU", "BatchNorm2d"}, kinds
    assert not [node for node in fused.graph.nodes if "add" in str(node.target)]


@pytest.mark.slow
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("name", ["resnet", "regnet", "mobilenet_v3", "squeezenet"])
def test_fast_copy_works_in_bfloat16_and_both_memory_formats(name: str, memory_format: torch.memory_format) -> None:
    model = member(name)
    model.module.eval()
    lower = cut.halves(model.module, model.structure, model.structure.stages[:-1])[0]
    fast = fuse.fast_copy(lower, torch.bfloat16, CPU, memory_format)
    for count, side in ((1, 32), (3, 64)):  # 32 pixels end in maps of one pixel
        images = torch.rand(count, 3, side, side).contiguous(memory_format=memory_format)
        with torch.inference_mode():
            features = lower(images)
            error = (fast(images.bfloat16()).float() - features).norm() / features.norm()
        assert error < 0.05, error


class _Block(nn.Module):
    """Two convolutions whose outputs are added; `other_use` says what else happens to the outputs."""

    def __init__(self, other_use: str) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.pool, self.silu = nn.MaxPool2d(3, 1, 1), nn.SiLU()
        self.otherwise = other_use

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = self.first(x)
        match self.otherwise:
            case "by the convolution":
                return torch.relu(self.second(shortcut) + shortcut)
            case "through a view":
                seen = shortcut.flatten(1)
                return torch.relu(self.second(x) + shortcut).flatten(1) + seen
            case "after the sum":
                return torch.relu(self.second(x) + shortcut) + shortcut
            case "outside":
                return torch.relu(self.second(x) + x)
            case "the convolution again":
                return torch.relu((added := self.second(x)) + shortcut) + added
            case "a constant":
                return torch.relu(self.second(x) + 1)
            case "a pooling":
                return torch.relu(self.pool(x) + shortcut)
            case "scaled":
                return torch.relu(torch.add(self.second(x), shortcut, alpha=2))
            case "another activation":
                return self.silu(self.second(x) + shortcut)
        return torch.relu(self.second(x) + shortcut)


OTHER_USES = ("by the convolution", "through a view", "after the sum", "outside", "the convolution again")
OTHER_SUMS = ("a constant", "a pooling", "scaled", "another activation")


@pytest.mark.skipif(not FUSES, reason="needs oneDNN")
@pytest.mark.parametrize("other_use", ["none", *OTHER_USES, *OTHER_SUMS])
def test_shortcut_is_overwritten_only_without_other_use(other_use: str) -> None:
    block = _Block(other_use)
    fused = fx.symbolic_trace(copy.deepcopy(block))
    fuse.fuse(fused)
    images = torch.randn(2, 3, 8, 8)
    kept = images.clone()
    with torch.inference_mode():
        torch.testing.assert_close(fused(images), block(images))
    assert torch.equal(images, kept)
    assert ("second" in dict(fused.named_modules()) and len(list(fused.graph.nodes)) == 4) == (other_use == "none")


class _Network(nn.Module):
    """Computes `how` with its layers."""

    def __init__(self, how: Callable[[Any, torch.Tensor], torch.Tensor], padding: dict[str, Any]) -> None:
        super().__init__()
        self.how, self.conv, self.relu = how, nn.Conv2d(3, 3, 3, **padding), nn.ReLU()
        self.norm, self.other = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        for norm in (self.norm, self.other):
            nn.init.uniform_(norm.weight, 1, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.how(self, x)


@pytest.mark.skipif(not FUSES, reason="needs oneDNN")
@pytest.mark.parametrize(
    ("how", "padding"),
    [
        (lambda its, x: its.other(its.conv(its.norm(its.conv(x)))), {"padding": 1}),
        (lambda its, x: its.conv(its.relu(its.conv(x))), {"padding": 1}),
        (lambda its, x: its.norm(y := its.conv(x)) + y, {"padding": 1}),
        (lambda its, x: its.relu(y := its.conv(x)) + y, {"padding": 1}),
        (lambda its, x: its.relu(its.conv(x)), {"padding": 1, "padding_mode": "reflect"}),
        (lambda its, x: its.relu(its.conv(x)), {"padding": "same"}),
    ],
)
def test_convolutions_with_other_calls_readers_or_padding_keep_their_function(
    how: Callable[[Any, torch.Tensor], torch.Tensor], padding: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    network, images = _Network(how, padding).eval(), torch.randn(2, 3, 8, 8)
    fused = fx.symbolic_trace(copy.deepcopy(network))
    fuse.fold(fused)
    fuse.fuse(fused)
    with torch.inference_mode():
        torch.testing.assert_close(fused(images), network(images))


class _Untraceable(nn.Module):
    """Reads values of its convolution's output, which tracing cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return y if (y := self.conv(x)).sum() > 0 else -y


def test_module_that_cannot_be_traced_stays_one_node() -> None:
    torch.manual_seed(0)
    network, images = nn.Sequential(nn.Conv2d(3, 3, 1), _Untraceable(), nn.ReLU()), torch.randn(2, 3, 8, 8)
    fast = fuse.fast_copy(network, torch.float32, CPU, torch.contiguous_format)
    assert isinstance(fast, fx.GraphModule)
    assert [node.target for node in fast.graph.nodes if node.op == "call_module"] == ["0", "1", "2"]
    with torch.inference_mode():
        assert torch.equal(fast(images), network(images))


def test_fast_copy_has_no_batch_norm_and_keeps_original() -> None:
    model, _ = with_statistics("resnet")
    before = copy.deepcopy(model.module.state_dict())
    lower, _ = cut.halves(model.module, model.structure, model.structure.stages[:-1])
    fast = fuse.fast_copy(lower, torch.bfloat16, CPU, torch.channels_last)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in fast.modules())
    assert {p.dtype for p in fast.parameters()} == {torch.bfloat16}
    assert all(torch.equal(before[name], tensor) for name, tensor in model.module.state_dict().items())


@pytest.mark.slow
def test_networks_are_freed_without_garbage_collection() -> None:
    gc.collect()
    gc.disable()
    try:
        model = build("resnet18", weights=None, num_classes=3, seed=0)
        lower, upper = cut.halves(model.module, model.structure, model.structure.stages[:-1])
        fast = fuse.fast_copy(lower, torch.bfloat16, CPU, torch.channels_last)
        alive = [weakref.ref(next(module.parameters())) for module in (model.module, upper, fast)]
        del model, lower, upper, fast
        assert [reference() for reference in alive] == [None, None, None]
    finally:
        gc.enable()


def test_fast_copy_works_without_private_torch_operations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A new torch may remove its private operations `torch.ops.mkldnn._convolution_pointwise` and the like."""
    lower, images = backbone("resnet")
    images, how = images.bfloat16(), (torch.bfloat16, CPU, torch.channels_last)
    with torch.inference_mode():
        fast = fuse.fast_copy(lower, *how)
        assert any(isinstance(layer, fuse._Fused) for layer in fast.modules()) == fuse.has_onednn()
        fused = fast(images).float()
        monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
        assert not fuse.has_onednn()
        plain = fuse.fast_copy(lower, *how)
        assert not any(isinstance(layer, fuse._Fused) for layer in plain.modules())
        assert (plain(images).float() - fused).norm() / fused.norm() < 0.02


@pytest.mark.parametrize("kind", [Conv2dSame, StdConv2dSame])
def test_special_convolutions_are_not_folded(kind: type[nn.Conv2d]) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    nn.init.uniform_(norm.weight, 1, 3)
    network = nn.Sequential(kind(3, 8, 3, stride=2), norm, nn.ReLU(), nn.Conv2d(8, 8, 1)).eval()
    images = torch.randn(2, 3, 17, 17).contiguous(memory_format=torch.channels_last)
    fast = fuse.fast_copy(network, torch.bfloat16, CPU, torch.channels_last)
    with torch.inference_mode():
        expected, found = network(images), fast(images.bfloat16()).float()
    assert found.shape == expected.shape and (found - expected).norm() < 0.05 * expected.norm()
