"""Mergeable adapters: they start as the identity, agree with their papers, and merge into a plain network."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from families import member
from frostline.core.errors import UserError
from frostline.models import adapters, freezing
from frostline.models.adapter_kinds import Adapter, DoRA
from frostline.models.build import Model
from frostline.records import layout
from frostline.records.result import PARAMETERS
from small import ADAPTED, SMALL, FakeRecord, compose, execute_run, mode, network, resolve

NETWORKS = ("shufflenet", "vit", "convnext")
"""With convolutions and batch norms; attention; linear layers, grouped convolutions and layer norms."""


def built(name: str, chosen: str, *, moved: bool = False) -> tuple[Model, nn.Module]:
    """Return a network with adapters, randomly moved if `moved`, and a copy of it without adapters."""
    model, draw = member(name), torch.Generator().manual_seed(2)
    model.module.eval()
    for path, parameter in model.module.named_parameters():
        if path.endswith("bias"):  # those of attention begin with 0
            nn.init.normal_(parameter, std=0.1, generator=draw)
    plain = copy.deepcopy(model.module)
    structure = adapters.insert(model.module, model.structure, mode(chosen).adapter, seed=0, side=32)
    if moved:
        draw = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for _, _, adapter in adapters.adapted(model.module):
                for parameter in adapter.parameters():
                    parameter += 0.05 * torch.randn(parameter.shape, generator=draw)
    return Model(**{**vars(model), "structure": structure}), plain


def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("chosen", ADAPTED)
@torch.no_grad()
def test_adapters_start_as_identity_and_merge(name: str, chosen: str) -> None:
    model, plain = built(name, chosen)
    expected = plain(images())
    assert torch.allclose(model.module(images()), expected, atol=1e-6)
    model, _ = built(name, chosen, moved=True)
    before = model.module(images())
    assert not torch.equal(before, expected)
    assert adapters.without(model.module).keys() == plain.state_dict().keys()
    touched = adapters.merge_targets(model.module)
    removed = model.module.state_dict().keys() - plain.state_dict().keys()
    merged = adapters.merge(model.module)
    assert removed and touched == merged.keys() | removed and merged.keys() <= plain.state_dict().keys()
    after = model.module(images())
    assert torch.allclose(before, after, rtol=1e-4, atol=1e-5)
    assert [type(part) for part in model.module.modules()] == [type(part) for part in plain.modules()]
    changed = {n for n, t in model.module.state_dict().items() if not torch.equal(t, plain.state_dict()[n])}
    assert {n for n in merged if n.endswith("weight")} <= changed <= merged.keys()
    plain.load_state_dict(model.module.state_dict())
    assert torch.equal(plain(images()), after)


@pytest.mark.parametrize("chosen", ADAPTED)
def test_only_head_and_adapters_learn(chosen: str) -> None:
    model, _ = built("vit", chosen)
    (phase,) = resolve(model, mode(chosen))
    freezing.freeze(model.module, model.structure, phase, norm_stats="frozen")
    model.module(images()).square().sum().backward()
    learn = {name for name, parameter in model.module.named_parameters() if parameter.grad is not None}
    own = {name for path, _, one in adapters.adapted(model.module) for name in adapters.named(path, one)}
    assert learn == own | {"heads.head.weight", "heads.head.bias"} == phase.learning
    assert all(isinstance(model.module.get_submodule(name.rpartition(".")[0]), Adapter) for name in own)
    assert {model.structure.stage_of(name) for name in own} <= {"stem", "stage1", "stage2", "stage3", "stage4"}


def test_lora_computes_what_the_paper_defines() -> None:
    model, plain = built("vit", "lora", moved=True)
    how = mode("lora").adapter
    block, old = (m.get_submodule("encoder.layers.encoder_layer_0") for m in (model.module, plain))
    x = torch.randn(2, 3, 16)
    for path in ("mlp.0", "mlp.3"):
        layer, frozen = cast(Any, block.get_submodule(path)), cast(nn.Linear, old.get_submodule(path))
        inputs = torch.randn(2, frozen.in_features)
        a, b = layer.adapter.lora_A, layer.adapter.lora_B
        assert a.shape == (how.rank, frozen.in_features) and b.shape == (frozen.out_features, how.rank)
        expected = frozen(inputs) + how.alpha / how.rank * (inputs @ a.T) @ b.T
        assert torch.allclose(layer(inputs), expected, atol=1e-5)
    conv, was = cast(Any, model.module).conv_proj, cast(Any, plain).conv_proj
    images = torch.randn(1, 3, 8, 8)
    inner = F.conv2d(images, conv.adapter.lora_A.view(how.rank, 3, 8, 8), stride=8)
    outer = F.conv2d(inner, conv.adapter.lora_B[:, :, None, None])
    assert torch.allclose(conv(images), was(images) + how.alpha / how.rank * outer, atol=1e-5)
    attention, before = cast(Any, block).self_attention, copy.deepcopy(cast(Any, old).self_attention)
    with torch.no_grad():
        for own, theirs in ((before.in_proj_weight, attention), (before.out_proj.weight, attention.out_proj)):
            own += how.alpha / how.rank * theirs.adapter.lora_B @ theirs.adapter.lora_A
    assert torch.allclose(attention(x, x, x)[0], before(x, x, x)[0], atol=1e-5)


def test_dora_separates_magnitude_and_direction() -> None:
    model, plain = built("convnext", "dora", moved=True)
    path = "features.1.0.block.3"
    layer, frozen = cast(Any, model.module.get_submodule(path)), cast(Any, plain.get_submodule(path))
    how = mode("dora").adapter
    direction = frozen.weight + how.alpha / how.rank * layer.adapter.lora_B @ layer.adapter.lora_A
    assert torch.allclose(layer.weight, layer.adapter.magnitude[:, None] * F.normalize(direction), atol=1e-6)
    assert torch.allclose(layer.weight.norm(dim=1), layer.adapter.magnitude.abs(), rtol=1e-4)
    exact = layer.weight
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.weight, exact)
    (layer.weight * direction.detach()).sum().backward()  # without effect if the length were not a constant
    assert layer.adapter.lora_B.grad.abs().max() > 1e-2


def test_dora_gradients_of_zero_filters_are_finite() -> None:
    frozen = torch.randn(3, 6)
    frozen[1] = 0
    adapter = DoRA(frozen, mode("dora").adapter)
    adapter.start(frozen, torch.Generator().manual_seed(0))
    assert torch.allclose(adapter.weight(frozen), frozen)
    adapter.weight(frozen).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in adapter.parameters())


def test_ia3_scales_keys_and_values_only() -> None:
    model, plain = built("vit", "ia3", moved=True)
    attention = cast(Any, model.module.get_submodule("encoder.layers.encoder_layer_3.self_attention"))
    before = cast(Any, plain.get_submodule("encoder.layers.encoder_layer_3.self_attention"))
    scale = attention.adapter.scale
    assert scale.shape == (2 * 16,)
    assert torch.equal(attention.in_proj_weight[:16], before.in_proj_weight[:16])
    assert torch.allclose(attention.in_proj_weight[16:], before.in_proj_weight[16:] * scale[:, None])
    assert torch.allclose(attention.in_proj_bias[16:], before.in_proj_bias[16:] * scale)


def test_ia3_does_not_scale_queries_of_timm() -> None:
    pytest.importorskip("timm")
    model = network("test_vit", library="timm", image_size=32)
    frozen = model.module.get_submodule("blocks.0.attn.qkv").get_parameter("weight").detach().clone()
    adapters.insert(model.module, model.structure, mode("ia3").adapter, seed=0, side=32)
    layer, width = cast(Any, model.module.get_submodule("blocks.0.attn.qkv")), frozen.shape[1]
    nn.init.constant_(layer.adapter.scale, 2.0)
    assert torch.equal(layer.weight, torch.cat([frozen[:width], 2 * frozen[width:]]))


def test_ia3_scales_inputs_of_second_layers_and_ssf_outputs() -> None:
    path = "encoder.layers.encoder_layer_3.mlp.3"
    for chosen in ("ia3", "ssf"):
        model, plain = built("vit", chosen, moved=True)
        layer, frozen = cast(Any, model.module.get_submodule(path)), cast(nn.Linear, plain.get_submodule(path))
        inputs = torch.randn(2, frozen.in_features, generator=torch.Generator().manual_seed(1))
        if chosen == "ia3":
            expected = frozen(inputs * layer.adapter.scale)
        else:
            expected = frozen(inputs) * layer.adapter.scale + layer.adapter.shift
        assert torch.allclose(layer(inputs), expected, atol=1e-6)


def test_grouped_convolutions_get_ia3_and_no_lora() -> None:
    for chosen, expected in (("lora", {False}), ("ia3", {True})):
        modules = built("shufflenet", chosen)[0].module.modules()
        grouped = [part for part in modules if isinstance(part, nn.Conv2d) and part.groups > 1]
        assert {hasattr(part, "adapter") for part in grouped} == expected


def test_dropout_applies_to_the_lora_input_only() -> None:
    model = network("convnext_tiny", image_size=32)
    how = compose("freeze=lora", "freeze_mode.adapter.dropout=0.5").freeze_mode.adapter
    adapters.insert(model.module, model.structure, how, seed=0, side=32)
    layer = cast(Any, model.module.get_submodule("features.1.0.block.3")).train()
    nn.init.ones_(layer.adapter.lora_B)
    x = torch.randn(4, layer.in_features)
    torch.manual_seed(0)
    dropped = layer(x)
    torch.manual_seed(0)
    expected = F.linear(x, layer._parameters["weight"], layer.bias) + layer.adapter.scale * F.linear(
        F.linear(F.dropout(x, 0.5), layer.adapter.lora_A), layer.adapter.lora_B
    )
    assert torch.equal(dropped, expected)
    assert torch.allclose(layer.eval()(x), F.linear(x, layer.weight, layer.bias), atol=1e-5)


@pytest.mark.slow
def test_where_selects_layers_and_must_match() -> None:
    model = network("shufflenet_v2_x0_5")
    how = compose("freeze=lora", "freeze_mode.adapter.where=[stage-1/*]").freeze_mode.adapter
    structure = adapters.insert(model.module, model.structure, how, seed=0, side=32)
    stages = {structure.stage_of(f"{path}.adapter") for path, _, _ in adapters.adapted(model.module)}
    assert stages == {"stage3"}
    model = network("shufflenet_v2_x0_5")
    how = compose("freeze=lora", "freeze_mode.adapter.where=[head/*]").freeze_mode.adapter
    with pytest.raises(
        UserError, match=r"^freeze_mode\.adapter\.where=\['head/\*'\]: expected globs that match weights"
    ):
        adapters.insert(model.module, model.structure, how, seed=0, side=32)


def test_initial_values_depend_on_seed_and_layer_alone() -> None:
    def drawn(seed: int, where: str) -> dict[str, Tensor]:
        model = network("shufflenet_v2_x0_5")
        how = compose("freeze=lora", f"freeze_mode.adapter.where=[{where}]").freeze_mode.adapter
        adapters.insert(model.module, model.structure, how, seed=seed, side=32)
        return {path: cast(Any, one).lora_A for path, _, one in adapters.adapted(model.module)}

    every, few, other = drawn(0, "'*'"), drawn(0, "stage2/*"), drawn(1, "'*'")
    for tensor in (one for one in every.values() if one.numel() > 500):  # as in a linear layer of torch
        assert 0.98 < tensor.abs().max() * tensor.shape[1] ** 0.5 <= 1
    assert few and all(torch.equal(tensor, every[path]) for path, tensor in few.items())
    assert not any(torch.equal(tensor, other[path]) for path, tensor in every.items())


@pytest.mark.slow
@pytest.mark.parametrize("chosen", ["lora", "ssf"])
def test_run_saves_merged_network_and_adapters(chosen: str, tmp_path: Path) -> None:
    config, record = compose(*SMALL, f"freeze={chosen}", "lr=1e-2"), FakeRecord()
    metrics, _ = execute_run(config, tmp_path, record)
    weights = load_file(tmp_path / layout.BEST)
    assert weights.keys() == network("shufflenet_v2_x0_5", classes=10).module.state_dict().keys()
    assert record.tags[layout.FROZEN_TAG].endswith("tensors unchanged, bit for bit")
    tensors = load_file(tmp_path / layout.ADAPTER / "adapter_model.safetensors")
    facts = json.loads((tmp_path / layout.ADAPTER / "adapter_config.json").read_text())
    assert sum(tensor.numel() for tensor in tensors.values()) == metrics[PARAMETERS]
    assert facts["modules_to_save"] == ["fc"] and facts["peft_type"] == {"lora": "LORA", "ssf": "SSF"}[chosen]
    assert {f"{layout.ADAPTER}/adapter_model.safetensors", f"{layout.ADAPTER}/adapter_config.json"} <= {*record.files}
