"""Adapter weights in the layout of PEFT, so that other programs can read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from frostline.core.config import AdapterConfig
from frostline.models.adapter_kinds import IA3, LoRA
from frostline.models.adapters import adapted


def adapters_alone(
    module: nn.Module, how: AdapterConfig, *, heads: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of adapters and heads, and the content of `adapter_config.json`.

    Names, shapes and keys are those of PEFT (https://huggingface.co/docs/peft/developer_guides/checkpoint). PEFT has no
    SSF: only the names follow it. PEFT adds the update of the projection after an attention twice (as of 0.21).
    """
    found = {f"{head}.{key}": own for head in heads for key, own in module.get_submodule(head).state_dict().items()}
    targets, inputs, ranks = [], [], {}
    for path, layer, adapter in adapted(module):
        attention, _, own = path.rpartition(".")
        if attention in targets and isinstance(layer, nn.Linear):  # PEFT wraps the projection with its attention
            path = f"{attention}.base_layer.{own}"
        else:
            targets.append(path)
        found |= {f"{path}.{name}": tensor for name, tensor in adapter.exported().items()}
        if isinstance(adapter, IA3) and adapter.of_inputs:
            inputs.append(path)
        if isinstance(adapter, LoRA) and len(adapter.lora_A) != how.rank:
            ranks[path] = len(adapter.lora_A)
    facts: dict[str, Any] = {
        "peft_type": "IA3" if how.kind == "ia3" else "SSF" if how.kind == "ssf" else "LORA",
        "target_modules": targets,
        "modules_to_save": [*heads],
        "inference_mode": True,
    }
    if how.kind == "ia3":
        facts["feedforward_modules"] = inputs
    if how.kind in ("lora", "dora"):
        alphas = {path: how.alpha * rank / how.rank for path, rank in ranks.items()}
        facts |= {"r": how.rank, "lora_alpha": how.alpha, "lora_dropout": how.dropout, "use_dora": how.kind == "dora"}
        facts |= {"rank_pattern": ranks, "alpha_pattern": alphas, "bias": "none"}
    return {f"base_model.model.{name}": tensor for name, tensor in found.items()}, facts
