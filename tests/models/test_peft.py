"""Adapters agree with PEFT, which reads our files: same parameters, outputs and gradients.

A comparison with PEFT itself needs `pip install peft`; PEFT brings transformers and accelerate and is in no extra.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from families import member
from frostline.models import adapters, build, freezing, peft_layout
from frostline.store import tensorfile
from small import compose, mode

LINEAR = "freeze_mode.adapter.where=['*/linear/weight/*']"
"""Without attention: with our own `where`, PEFT adds the product of its output projection twice."""
THEIRS = {
    "lora_A": "lora_A.default.weight",
    "lora_B": "lora_B.default.weight",
    "magnitude": "lora_magnitude_vector.default.weight",
    "scale": "ia3_l.default",
}


def moved(module: nn.Module) -> None:
    """Move the parameters of all adapters at random."""
    draw = torch.Generator().manual_seed(0)
    for _, _, adapter in adapters.adapted(module):
        for parameter in adapter.parameters():
            parameter.detach().add_(0.05 * torch.randn(parameter.shape, generator=draw))


@pytest.mark.parametrize("name", ["convnext", "vit"])
@pytest.mark.parametrize("kind", ["lora", "dora", "ia3"])
@torch.no_grad()
def test_file_gives_the_weights_by_the_formulas_of_peft(name: str, kind: str) -> None:
    model, how = member(name), replace(mode(kind).adapter, rank=20)
    plain = copy.deepcopy(model.module)
    adapters.insert(model.module, model.structure, how, side=32, seed=0)
    moved(model.module)
    tensors, facts = peft_layout.adapters_alone(model.module, how, heads=model.structure.heads)
    assert not any(tensor.requires_grad for tensor in tensors.values())
    for path, layer, _ in adapters.adapted(model.module):
        leaf = "in_proj_weight" if isinstance(layer, nn.MultiheadAttention) else "weight"
        frozen, target = plain.get_submodule(path).get_parameter(leaf), path.replace("n.out_", "n.base_layer.out_")
        is_conv, ones = frozen.dim() == 4, [1] * (frozen.dim() - 1)
        own = {key.partition(f"{target}.")[2]: tensor for key, tensor in tensors.items() if f"model.{target}." in key}
        if kind == "ia3":
            (scale,), of_inputs = own.values(), path in facts["feedforward_modules"]
            count = frozen.shape[1] if of_inputs else len(frozen)
            assert scale.shape == ((1, count, 1, 1) if is_conv else (1, count) if of_inputs else (count, 1))
            assert (scale == 1).sum() == (count // 3 if leaf == "in_proj_weight" else 0)  # queries
            expected = frozen * (scale if of_inputs else scale.view(-1, *ones))
        else:
            a, b = own["lora_A.weight"], own["lora_B.weight"]
            assert a.shape[1:] == frozen.shape[1:] and b.shape == (len(frozen), len(a), *ones[1:])
            alpha = facts["alpha_pattern"].get(target, facts["lora_alpha"])
            assert len(a) == facts["rank_pattern"].get(target, facts["r"])
            expected = frozen + alpha / len(a) * (b.flatten(1) @ a.flatten(1)).view_as(frozen)
        if kind == "dora":
            lengths = own["lora_magnitude_vector"]
            assert lengths.shape == ((1, len(frozen), 1, 1) if is_conv else (len(frozen),))
            expected = expected * (lengths.flatten() / expected.flatten(1).norm(dim=1)).view(-1, *ones)
        torch.testing.assert_close(getattr(layer, leaf), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side", "kind", "overrides"),
    [
        ("resnet18", 64, "lora", ()),
        ("resnet18", 64, "dora", ()),
        ("resnet18", 64, "ia3", ()),
        ("convnext_tiny", 64, "lora", ()),
        ("vit_b_16", 32, "lora", (LINEAR,)),
        ("vit_b_16", 32, "dora", (LINEAR,)),
    ],
)
def test_peft_computes_the_same_from_our_files(
    name: str, side: int, kind: str, overrides: tuple[str, ...], tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    how = compose(f"freeze={kind}", *overrides).freeze_mode
    draw = torch.Generator().manual_seed(0)
    model = build.build(name, library="torchvision", weights=None, num_classes=10, seed=0, image_size=side)
    module, plain = model.module.eval(), copy.deepcopy(model.module).eval()
    structure = adapters.insert(module, model.structure, how.adapter, side=side, seed=0)
    moved(module)
    tensors, facts = peft_layout.adapters_alone(module, how.adapter, heads=structure.heads)
    tensorfile.save(tmp_path / "adapter_model.safetensors", tensors, {})
    (tmp_path / "adapter_config.json").write_text(json.dumps(facts))
    theirs = peft.PeftModel.from_pretrained(plain, str(tmp_path), is_trainable=True).eval()
    (phase,) = freezing.resolve(module, structure, how.phases, how.name)
    freezing.freeze(module, structure, phase, norm_stats="frozen")
    module.eval()
    inputs = torch.randn(4, 3, side, side, generator=draw)
    found, expected = (_outputs_and_gradients(network, inputs) for network in (module, theirs))
    assert (found[0] - expected[0]).abs().max() < 1e-4 * expected[0].abs().max()
    assert sum(map(torch.numel, found[1].values())) == sum(map(torch.numel, expected[1].values()))
    own = {path: gradient for path, gradient in found[1].items() if ".adapter." in path}
    assert own
    for path, gradient in own.items():
        same = expected[1]["base_model.model." + _peft_name(path)]
        assert (gradient.flatten() - same.flatten()).abs().max() < 1e-3 * same.abs().max()


def _outputs_and_gradients(network: Any, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the outputs, and the gradient of each parameter that learns."""
    outputs = network(inputs)
    nn.functional.cross_entropy(outputs, torch.arange(len(inputs))).backward()
    return outputs.detach(), {path: p.grad for path, p in network.named_parameters() if p.requires_grad}


def _peft_name(path: str) -> str:
    """Return PEFT's name for one of our parameters."""
    layer, _, name = path.partition(".adapter.")
    return f"{layer}.{THEIRS[name]}"
