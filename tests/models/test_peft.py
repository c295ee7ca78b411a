"""Adapters agree with PEFT, which reads our files: same parameters, outputs and gradients.

This needs `pip install peft`; PEFT brings transformers and accelerate and is in no extra.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from frostline.models import adapters, build, freezing, peft_layout
from frostline.store import tensorfile
from small import compose

LINEAR = "freeze_mode.adapter.where=['*/linear/weight/*']"
"""Without attention: with our own `where`, PEFT adds the product of its output projection twice."""
THEIRS = {
    "lora_A": "lora_A.default.weight",
    "lora_B": "lora_B.default.weight",
    "magnitude": "lora_magnitude_vector.default.weight",
    "scale": "ia3_l.default",
}


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
    with torch.no_grad():
        for path, parameter in module.named_parameters():
            if ".adapter." in path:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
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
