"""Kept adapters: bottlenecks and prompts agree with their papers, and files restore them."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from timm.models.eva import Eva
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer
from torchvision.ops import Permute

from frostline.core.config import KEPT, AdapterConfig
from frostline.core.errors import UserError
from frostline.core.input_spec import InputSpec
from frostline.core.validation import adapter_config
from frostline.models import build, cut, freezing, fuse, kept_adapters, timm_stages
from frostline.models.build import Model
from frostline.models.kept_adapter_kinds import KeptAdapter
from frostline.models.stages import of_levels, structure_of
from frostline.records import layout
from frostline.runs import export, predict
from frostline.runs.export_formats import SUFFIXES
from frostline.store import hashing, tensorfile
from small import KEPT_MODES, SMALL, FakeRecord, compose, execute_run, mode, network, plain_config, resolve

SIDE = 32
RUN = (*SMALL, "model=timm", "model.name=test_vit.r160_in1k", "model.weights=null", "lr=0.01")
SPEC = InputSpec(SIDE, SIDE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear")


def config_of(chosen: str, *options: str) -> AdapterConfig:
    return compose(f"freeze={chosen}", *(f"freeze_mode.adapter.{option}" for option in options)).freeze_mode.adapter


def vit() -> Model:
    """Return a small vision transformer of torchvision in eval mode."""
    torch.manual_seed(0)
    module = VisionTransformer(SIDE, 8, num_layers=4, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5).eval()
    nn.init.normal_(module.heads[-1].weight)  # type: ignore[arg-type]
    return Model("vit", "torchvision", module, structure_of(module), SPEC, None, None, new_head=True)


def eva(rope: str, registers: int = 2) -> Model:
    """Return a small network of timm with rotary positions, like EVA-02 and DINOv3, in eval mode."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"embed_dim": 32, "depth": 4, "num_heads": 2, "num_classes": 5}
    kind = {"attn_type": "eva" if rope == "cat" else "rope", "rope_type": rope, "num_reg_tokens": registers}
    module = Eva(SIDE, 8, use_rot_pos_emb=True, no_embed_class=True, head_init_scale=0, **sizes, **kind).eval()
    return Model("eva", "timm", module, timm_stages.structure_of(module, SIDE), SPEC, None, None, new_head=True)


def images() -> Tensor:
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def built(name: str) -> Model:
    """Return a network by name, `timm:` before names of timm, in eval mode."""
    if name == "vit":
        return vit()
    if name.startswith("eva:"):
        return eva(name.removeprefix("eva:"))
    library, _, own = name.rpartition(":")
    model = network(own, library=library or "torchvision", image_size=SIDE)
    model.module.eval()
    for key, parameter in model.module.named_parameters():
        if key.endswith(".gamma"):  # layer scale, nearly 0 at first
            nn.init.ones_(parameter)
    return model


def perturbed(model: Model, chosen: AdapterConfig) -> tuple[Any, Any]:
    """Return the network with randomly moved adapters, and a copy of it without adapters."""
    bare = copy.deepcopy(model.module)
    module = build.with_adapters(model, chosen, seed=0).module
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for adapter in adapters(module):
            for parameter in adapter.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=draw)
    return module, bare


def adapters(module: nn.Module) -> list[KeptAdapter]:
    return [part for part in module.modules() if isinstance(part, KeptAdapter)]


@pytest.mark.parametrize(
    ("name", "count"),
    [("vit", 4), ("shufflenet_v2_x0_5", 16), ("densenet121", 58), ("timm:test_vit", 6), ("timm:test_convnext", 9)],
)
@torch.no_grad()
def test_new_bottlenecks_do_not_change_the_network(name: str, count: int) -> None:
    model = built(name)
    before, state = model.module(images()), copy.deepcopy(model.module.state_dict())
    adapted = build.with_adapters(model, mode("adapter").adapter, seed=0)
    assert torch.equal(adapted.module(images()), before) and len(adapters(adapted.module)) == count
    after = adapted.module.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in state.items())
    assert all(".adapter." in name for name in after.keys() - state.keys())
    assert not any(part.training for part in model.module.modules())


@pytest.mark.parametrize("parallel", [False, True])
@torch.no_grad()
def test_bottlenecks_compute_what_the_papers_define(parallel: bool) -> None:
    options = (f"parallel={parallel}", "scale=0.5", "rank=3")
    module, bare = perturbed(vit(), config_of("adapter", *options))
    path, x = "encoder.layers.encoder_layer_1.mlp", torch.randn(2, 7, 16)
    layer, frozen = module.get_submodule(path), bare.get_submodule(path)
    seen = x if parallel else frozen(x)
    middle = F.relu(seen @ layer.adapter.down.weight.T + layer.adapter.down.bias)
    added = middle @ layer.adapter.up.weight.T + layer.adapter.up.bias
    torch.testing.assert_close(layer(x), frozen(x) + 0.5 * added)
    assert layer.adapter.down.weight.shape == (3, 16) and len(layer) == len(frozen)
    module, bare = perturbed(built("shufflenet_v2_x0_5"), config_of("adapter", *options))
    maps = torch.randn(2, 48, 4, 4)
    block, was = module.stage2[1], bare.stage2[1]
    seen = maps if parallel else was(maps)
    middle = F.relu(torch.einsum("oc,bchw->bohw", block.adapter.down.weight[:, :, 0, 0], seen) + _column(block, "down"))
    added = torch.einsum("oc,bchw->bohw", block.adapter.up.weight[:, :, 0, 0], middle) + _column(block, "up")
    torch.testing.assert_close(block(maps), was(maps) + 0.5 * added)
    halving = module.stage2[0]
    assert isinstance(halving._modules.get("adapter"), KeptAdapter) is not parallel


def _column(block: Any, name: str) -> Tensor:
    bias: Tensor = block.adapter.get_submodule(name).bias
    return bias[:, None, None]


def test_bottleneck_of_attention_changes_its_first_output() -> None:
    module, bare = perturbed(vit(), config_of("adapter", "where=['*.self_attention']"))
    x = torch.randn(2, 5, 16)
    layer, frozen = (m.encoder.layers[0].self_attention for m in (module, bare))
    given, weights = layer(x, x, x, average_attn_weights=False)
    before, theirs = frozen(x, x, x, average_attn_weights=False)
    added = layer.adapter.up(F.relu(layer.adapter.down(before)))
    torch.testing.assert_close((given, weights), (before + added, theirs))


def logits_with_prompts(name: str, bare: Any, module: Any, *, deep: bool) -> Tensor:
    """Return the logits of `bare`, a vision transformer, with the prompts of `module` put behind CLS as in the paper.

    With `deep`, each block's own prompts replace those that the block before returns. With rotary positions, prompts
    count as additional registers.
    """
    timm = not isinstance(bare, VisionTransformer)
    blocks = [*(bare.blocks if timm else bare.encoder.layers)]
    tokens = [adapter.tokens for adapter in adapters(module) if adapter.tokens is not None]
    count, turned = len(tokens[0]), [()] * len(blocks)
    if isinstance(bare, Eva):
        x, rope = bare._pos_embed(bare.patch_embed(images()))
        turned = [(one,) for one in (rope if bare.rope_mixed else [rope] * len(blocks))]
        wider = eva(name.removeprefix("eva:"), registers=2 + count).module.get_submodule("blocks")
        wider.load_state_dict(bare.blocks.state_dict())
        blocks = [*wider.children()]
    elif timm:
        x = bare.norm_pre(bare._pos_embed(bare.patch_embed(images())))
    else:
        x = bare._process_input(images())
        x = torch.cat([bare.class_token.expand(2, -1, -1), x], 1) + bare.encoder.pos_embedding
    for number, block in enumerate(blocks):
        if number == 0:
            x = torch.cat([x[:, :1], tokens[0].expand(2, -1, -1), x[:, 1:]], 1)
        elif deep:
            x = torch.cat([x[:, :1], tokens[number].expand(2, -1, -1), x[:, 1 + count :]], 1)
        x = block(x, *turned[number])
    x = torch.cat([x[:, :1], x[:, 1 + count :]], 1)
    logits: Tensor = bare.forward_head(bare.norm(x)) if timm else bare.heads(bare.encoder.ln(x)[:, 0])
    return logits


@pytest.mark.parametrize("name", ["vit", "timm:test_vit", "timm:test_vit3", "eva:cat", "eva:mixed", "eva:dinov3"])
@pytest.mark.parametrize("deep", [True, False])
@torch.no_grad()
def test_prompts_compute_what_the_paper_defines(name: str, deep: bool) -> None:
    module, bare = perturbed(built(name), config_of("prompt", f"deep={deep}", "tokens=3"))
    given = module(images())
    torch.testing.assert_close(given, logits_with_prompts(name, bare, module, deep=deep), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(given, bare(images()), rtol=1e-3)
    with_tokens = [adapter for adapter in adapters(module) if adapter.tokens is not None]
    assert len(with_tokens) == (len(module.encoder.layers if name == "vit" else module.blocks) if deep else 1)


@pytest.mark.parametrize("chosen", ["adapter", "prompt"])
def test_initial_values_depend_on_the_seed(chosen: str) -> None:
    first, again, other = (
        [*adapters(build.with_adapters(vit(), config_of(chosen), seed=seed).module)] for seed in (0, 0, 1)
    )
    for one, same, its in zip(first, again, other, strict=True):
        drawn, equal, different = (
            cast(Any, each).down.weight if chosen == "adapter" else each.tokens for each in (one, same, its)
        )
        assert torch.equal(drawn, equal) and not torch.equal(drawn, different)
        if chosen == "adapter":  # as in a linear layer of torch
            assert 0.95 < drawn.abs().max() * drawn.shape[1] ** 0.5 <= 1


def test_prompts_have_the_papers_initial_distribution() -> None:
    module = build.with_adapters(vit(), config_of("prompt", "tokens=200"), seed=0).module
    tokens = torch.stack([cast(Any, one).tokens for one in adapters(module)])
    bound = (6 / (3 * 8 * 8 + 16)) ** 0.5
    assert 0.98 * bound < tokens.abs().max() <= bound and abs(float(tokens.detach().mean())) < 0.01


@pytest.mark.parametrize("side", [8, 4, 6])  # of 4 and 6, maps have as many channels as rows and columns
def test_bottlenecks_project_channels_first_or_last(side: int) -> None:
    last = nn.Linear(6 * side**2, 2)
    module = nn.Sequential(nn.Conv2d(3, 4, 1), Permute([0, 2, 3, 1]), nn.Linear(4, 6), nn.Flatten(), last)
    structure = of_levels(module, {name: int(name[0] == "4") for name in module.state_dict()}, ("4",))
    images = torch.ones(2, 3, side, side)
    before = module(images)
    kept_adapters.insert(module, structure, config_of("adapter", "where=['*']", "parallel=true"), seed=0, side=side)
    assert torch.equal(module(images), before)
    assert all(part.training and not part._forward_hooks for part in module.modules())
    first, second = (cast(Any, adapter) for adapter in adapters(module))
    assert isinstance(first.down, nn.Conv2d) and (first.down.in_channels, first.up.out_channels) == (3, 4)
    assert isinstance(second.down, nn.Linear) and (second.down.in_features, second.up.out_features) == (4, 6)


@pytest.mark.parametrize(
    ("chosen", "read"),
    [("adapter", ("rank", "parallel", "scale", "dropout")), ("prompt", ("tokens", "deep", "dropout"))],
)
def test_description_has_what_the_kind_of_adapter_reads(chosen: str, read: tuple[str, ...]) -> None:
    how, model = config_of(chosen, "where=['stage-1/*.encoder_layer_3']"), vit()
    module = build.with_adapters(model, how, seed=0).module
    tensors, facts = kept_adapters.alone(module, how, heads=("heads.head",))
    assert tensors.keys() == {n for n in module.state_dict() if ".adapter." in n or n.startswith("heads.head.")}
    assert "arXiv:" in facts.pop("papers")
    around = ["encoder.layers.encoder_layer_3"]
    own = {name: getattr(how, name) for name in read}
    assert facts == {"kind": how.kind, **own, "around": around, "modules_to_save": ["heads.head"]}


@pytest.mark.parametrize("chosen", KEPT_MODES)
def test_head_gets_no_adapter(chosen: str) -> None:
    with pytest.raises(UserError, match=r"^freeze_mode\.adapter\.where=\['head/\*'\]: .* below the head \(conv2d, "):
        build.with_adapters(vit(), config_of(chosen, "where=['head/*']"), seed=0)


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "timm:test_vit_relpos", "timm:test_convnext"])
def test_prompts_need_a_vision_transformer(name: str) -> None:
    model = built(name)
    with pytest.raises(UserError, match=r"^freeze_mode\.adapter\.kind=prompt: expected a VisionTransformer"):
        build.with_adapters(model, mode("prompt").adapter, seed=0)


@pytest.mark.parametrize("chosen", KEPT_MODES)
def test_only_head_and_adapters_learn(chosen: str) -> None:
    model = build.with_adapters(vit(), config_of(chosen, "where=['stage-1/*','stage-2/*']"), seed=0)
    (phase,) = resolve(model, mode(chosen))
    freezing.freeze(model.module, model.structure, phase, norm_stats="frozen")
    assert all(adapter.training for adapter in adapters(model.module))  # else their dropout would be off
    model.module(images()).square().sum().backward()
    learn = {name for name, parameter in model.module.named_parameters() if parameter.grad is not None}
    assert learn == {n for n, _ in model.module.named_parameters() if ".adapter." in n or n.startswith("heads")}
    below = cut.stages_below(model.structure, phase)
    assert below == ("stem", "stage1", "stage2")
    lower, upper = cut.halves(model.module, model.structure, below)
    torch.testing.assert_close(upper(lower(images())), model.module(images()))


@pytest.mark.parametrize("chosen", ["adapter", "lora"])
def test_fast_copy_keeps_frozen_adapters(chosen: str) -> None:
    where = "where=['*/conv2d/*']" if chosen == "adapter" else "where=['*/conv2d/weight/*']"
    model = network("resnet18", image_size=SIDE)
    module, _ = perturbed(model, config_of(chosen, where))
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("lora_B"):
                parameter.fill_(0.05)
    lower = cut.halves(module.eval(), model.structure, model.structure.stages[:-1])[0]
    fast = fuse.fast_copy(lower.double(), torch.float64, torch.device("cpu"), torch.contiguous_format)
    torch.testing.assert_close(fast(images().double()), lower(images().double()))


def test_adapter_facts_of_a_file_are_checked() -> None:
    facts = asdict(config_of("adapter"))
    assert adapter_config(facts) == config_of("adapter")
    with pytest.raises(UserError, match=r"^freeze_mode\.adapter\.kind=lora: expected one of bottleneck, prompt"):
        adapter_config({**facts, "kind": "lora"})
    with pytest.raises(UserError, match=r"^freeze_mode\.adapter\.rank=0: expected a whole number"):
        adapter_config({**facts, "rank": 0})
    with pytest.raises(UserError, match=r"^freeze_mode\.adapter\.rank=big: expected a value of type int"):
        adapter_config({**facts, "rank": "big"})
    assert {config_of(chosen).kind for chosen in KEPT_MODES} == {*KEPT}


def test_network_is_built_with_the_adapters_of_its_file(tmp_path: Path) -> None:
    plain, path = network("shufflenet_v2_x0_5"), tmp_path / "w.safetensors"
    model = build.with_adapters(plain, config_of("adapter"), seed=0)
    tensorfile.save(path, model.module.state_dict(), build.metadata(model, "abcde"))
    arguments = {"weights": str(path), "num_classes": 5, "seed": 1}
    again = build.build(model.name, **arguments, meta=True)
    assert again.kept_adapter == model.kept_adapter == config_of("adapter")
    assert again.module.state_dict().keys() == model.module.state_dict().keys()
    with pytest.raises(UserError, match=r"not of one that keeps adapters \(bottleneck\)"):
        build.build(model.name, **arguments)
    assert build.with_adapters(network("shufflenet_v2_x0_5"), config_of("lora"), seed=0).kept_adapter is None


class Stopped(Exception):
    pass


class Stopping(FakeRecord):
    """A record that raises in the second epoch."""

    def metrics(self, values: Any, step: int = 0) -> None:
        if step == 2:
            raise Stopped
        super().metrics(values, step)


def run(folder: Path, *options: str, record: FakeRecord | None = None) -> FakeRecord:
    record = record or FakeRecord()
    execute_run(compose(*RUN, *options), folder, record)
    return record


@pytest.mark.slow
@pytest.mark.parametrize("chosen", KEPT_MODES)
def test_run_saves_network_and_adapters(chosen: str, tmp_path: Path) -> None:
    options = (f"freeze={chosen}", "train.ema_decay=0.5", "checkpoint.every_seconds=0.001")
    record = run(tmp_path / "whole", *options)
    assert record.tags[layout.FROZEN_TAG].endswith("tensors unchanged, bit for bit")
    assert "kept in best.safetensors" in record.tags[layout.ADAPTER_TAG]
    with pytest.raises(Stopped):
        run(tmp_path / "resumed", *options, record=Stopping())
    run(tmp_path / "resumed", *options)
    best = tmp_path / "whole" / layout.BEST
    assert hashing.of_file(tmp_path / "resumed" / layout.BEST) == hashing.of_file(best)

    tensors = load_file(tmp_path / "whole" / layout.ADAPTER / "adapter_model.safetensors")
    facts = json.loads((tmp_path / "whole" / layout.ADAPTER / "adapter_config.json").read_text())
    weights = load_file(best)
    assert facts["kind"] in KEPT and facts["model"] == "test_vit.r160_in1k" and facts["modules_to_save"] == ["head"]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in tensors.items())
    assert {name for name in weights if ".adapter." in name or name.startswith("head.")} == tensors.keys()

    (tmp_path / "whole" / layout.CONFIG).write_text(json.dumps(plain_config(*RUN, *options)))
    predictor = predict.load(tmp_path / "whole", device="cpu")
    assert len(adapters(predictor.model.module)) == 6
    assert export.export(predictor, "safetensors", tmp_path / "net.safetensors") <= export.TOLERANCE
    del cast(Any, predictor.model.module).blocks[2:]  # makes writing the graph faster
    kind = "onnx" if chosen == "prompt" else "torchscript"
    assert export.export(predictor, kind, tmp_path / f"net{SUFFIXES[kind]}") <= export.TOLERANCE
    for file in (best, tmp_path / "net.safetensors"):
        with pytest.raises(UserError, match=r"^model\.weights=.*: expected weights of a plain network, not of"):
            run(tmp_path / "next", f"model.weights={file}", "freeze=head")


@pytest.mark.slow
def test_frozen_adapters_become_features_of_the_next_phase(tmp_path: Path) -> None:
    phases = (
        "freeze_mode.phases=[{rules:[{match:head/*},{match:'*/adapter/*'},{match:'*',lr_scale:0}]},"
        "{rules:[{match:head/*},{match:'*',lr_scale:0}]}]"
    )
    stored = (f"store.path={tmp_path / 'store'}", "store.enabled=true", "freeze=adapter", phases, "data.limit=100")
    run(tmp_path / "kept", *stored)
    run(tmp_path / "anew", *stored, "features.enabled=false")
    assert hashing.of_file(tmp_path / "kept" / layout.BEST) == hashing.of_file(tmp_path / "anew" / layout.BEST)
