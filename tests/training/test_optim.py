"""Param groups, optimizers by name, and schedules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from inspect import signature
from math import inf
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from frostline.core.config import FreezeModeConfig, ScheduleConfig
from frostline.core.errors import UserError
from frostline.core.open_options import OPTIONS
from frostline.models import adapters
from frostline.models.build import Model
from frostline.models.freezing import Phase
from frostline.models.stages import Structure
from frostline.runs import checks
from frostline.training import optim, schedule
from frostline.training.joined_optimizer import JoinedOptimizer
from frostline.training.schedule import Rates
from small import ADAPTED, CONF, MODES, compose, images, mode, network, phase, raises_one_line, resolve, train

NETWORKS = ("shufflenet_v2_x0_5", "resnet18", "vit_b_16", "convnext_tiny", "swin_t", "densenet121")
TIMM = ("test_vit2", "test_convnext", "swinv2_tiny_window8_256", "beit_base_patch16_224")
EMBEDDINGS = ("*class_token", "*pos_embedding", "*relative_position_bias_table", "*logit_scale", "*cpb_mlp*")
OPTIMIZERS = {path.stem: yaml.safe_load(path.read_text()) for path in (CONF / "optimizer").glob("*.yaml")}
SCHEDULES = {
    path.stem: ScheduleConfig(**yaml.safe_load(path.read_text())) for path in (CONF / "schedule").glob("*.yaml")
}


@cache
def on_meta(name: str) -> Model:
    return network(name, meta=True)


def groups_of(
    model: Model, chosen: FreezeModeConfig, weight_decay: float = 0.1, decay_norm_and_bias: bool = False
) -> list[dict[str, Any]]:
    phases = resolve(model, chosen)
    options = {"weight_decay": weight_decay, "decay_norm_and_bias": decay_norm_and_bias}
    return optim.param_groups(model.module, model.structure, phases, **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("chosen", MODES)
def test_every_learning_parameter_is_in_one_group(name: str, chosen: str) -> None:
    model = on_meta(name)
    groups = groups_of(model, mode(chosen))
    counts = Counter(id(p) for group in groups for p in group["params"])
    phases = resolve(model, mode(chosen))
    learning = frozenset[str]().union(*(phase.learning for phase in phases))
    assert counts == {id(p): 1 for n, p in model.module.named_parameters() if n in learning}
    assert len({group["name"] for group in groups}) == len(groups)
    assert all(group["name"] and group["params"] for group in groups)
    names = {id(p): n for n, p in model.module.named_parameters()}
    for group in groups:
        for parameter in group["params"]:
            assert group["scales"] == tuple(phase.scales[names[id(parameter)]] for phase in phases)
            assert group["name"].startswith(model.structure.stage_of(names[id(parameter)]) + ".")


def decays(groups: list[dict[str, Any]]) -> dict[int, float]:
    return {id(p): group["weight_decay"] for group in groups for p in group["params"]}


@pytest.mark.parametrize("name", [*NETWORKS, "swin_v2_t", "maxvit_t", *(f"timm:{name}" for name in TIMM)])
def test_weight_decay_spares_what_timm_spares(name: str) -> None:
    timm = pytest.importorskip("timm.optim")
    library, _, own = name.rpartition(":")
    model = network(own, library=library or "torchvision", meta=True)
    # timm's ConvNeXt has no names to spare; its LayerScale is a vector, while torchvision's has two more dimensions
    named = getattr(model.module, "no_weight_decay", tuple)() if library else (*EMBEDDINGS, "*layer_scale")
    theirs = decays(timm.param_groups_weight_decay(model.module, 0.1, no_weight_decay_list=named))
    assert decays(groups_of(model, mode("full"))) == theirs and set(theirs.values()) == {0.0, 0.1}
    every = groups_of(model, mode("full"), decay_norm_and_bias=True)
    assert {group["weight_decay"] for group in every} == {0.1}


def test_norm_layers_over_several_dimensions_do_not_decay() -> None:
    module = nn.Sequential(nn.LayerNorm([2, 3, 4]), nn.Linear(4, 2))
    structure = Structure(("head",), ("1",), {name: "head" for name, _ in module.named_parameters()})
    only = Phase(1.0, dict.fromkeys(structure._stage_by_name, 1.0))
    groups = optim.param_groups(module, structure, [only], weight_decay=0.1, decay_norm_and_bias=False)
    assert decays(groups) == {id(p): 0.1 * (p is module[1].weight) for p in module.parameters()}


@pytest.mark.parametrize("chosen", ADAPTED)
def test_only_matrices_of_adapters_decay(chosen: str) -> None:
    model = network("vit_b_16", meta=True)
    structure = adapters.insert(model.module, model.structure, mode(chosen).adapter, seed=0, side=224)
    groups = groups_of(Model(**{**vars(model), "structure": structure}), mode(chosen))
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    own = [p for _, _, one in adapters.adapted(model.module) for p in one.parameters()]
    assert own and all(decay[id(p)] == (0.1 if p.dim() > 1 else 0.0) for p in own)


@pytest.mark.parametrize("chosen", ["gradual", "lp_ft"])
def test_groups_do_not_change_during_training(chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[torch.optim.Optimizer] = []
    build = optim.build

    def remember(*arguments: Any, **options: Any) -> torch.optim.Optimizer:
        built.append(build(*arguments, **options))
        return built[-1]

    monkeypatch.setattr(optim, "build", remember)
    model = network()
    lrs: list[dict[str, float]] = []

    def record(step: int, span: Any) -> None:
        lrs.append({group["name"]: group["lr"] for group in built[0].param_groups})

    list(train(model, mode(chosen), images(8), epochs=6, lr=0.5, before_step=record))
    assert all(seen.keys() == lrs[0].keys() for seen in lrs)
    assert {name.split(".")[0] for name in lrs[0]} == set(model.structure.stages)
    below = "stem.no_decay"
    assert lrs[0][below] == 0
    assert lrs[-1][below] == pytest.approx(0.5 * (0.3846**4 if chosen == "gradual" else 0.1))
    assert lrs[0]["head.no_decay"] == 0.5


def test_groups_of_a_stage_have_different_names() -> None:
    rules = [{"match": "stage4/*/layer4.0.*", "lr_scale": 0.5}, {"match": "*"}]
    groups = groups_of(on_meta("resnet18"), FreezeModeConfig("own", "learn", [phase(rules=rules)]))
    names = [group["name"] for group in groups if group["name"].startswith("stage4")]
    assert len(set(names)) == len(names) == 4


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_option_builds_and_steps(name: str) -> None:
    values = OPTIMIZERS[name]
    model = network()
    groups = groups_of(model, mode("lp_ft"), values["weight_decay"], values["decay_norm_and_bias"])
    built = optim.build(values["name"], groups, lr=0.25, options=values["options"])
    assert type(built).__name__.lower() == name
    assert {group["lr"] for group in built.param_groups} == {0.25}
    assert {key: built.defaults[key] for key in values["options"]} == values["options"]
    before = model.module.fc.weight.detach().clone()
    model.module(images(4).tensor).logsumexp(1).sum().backward()
    built.step()
    assert not torch.equal(before, model.module.fc.weight)


@pytest.mark.parametrize("typed", ["AdamW", "adamw", "ADAMW"])
def test_optimizer_names_are_case_insensitive(typed: str) -> None:
    assert optim.optimizer_class(typed) is torch.optim.AdamW


@pytest.mark.parametrize(
    "typed", ["adamww", "optimizer", "lr_scheduler", "lbfgs", "muon", "sparseadam", "swa_utils", "os.system", ""]
)
def test_unknown_optimizer_is_one_line(typed: str) -> None:
    with raises_one_line(r"^optimizer\.name=.*expected an optimizer of torch\.optim") as caught:
        optim.optimizer_class(typed)
    if typed == "adamww":
        assert str(caught.value).endswith("did you mean adamw?")


@pytest.mark.parametrize(("name", "options"), OPTIONS["optimizer"].items())
def test_options_known_without_torch_are_accepted(name: str, options: str) -> None:
    assert name in OPTIMIZERS and {*options.split()} <= signature(optim.optimizer_class(name)).parameters.keys()


def test_nearest_option_is_named() -> None:
    with raises_one_line(r"^optimizer\.options\.epss=1: .*; did you mean eps\?$"):
        optim.check_options("adam", {"epss": 1})


def test_unknown_option_is_one_line() -> None:
    optim.check_options("sgd", {"momentum": 0.9})
    for key in ("momentm", "lr", "weight_decay", "params", "differentiable"):
        with raises_one_line(rf"^optimizer\.options\.{key}=0\.9: expected an option of sgd"):
            optim.check_options("sgd", {key: 0.9})


@pytest.mark.parametrize("options", [{"momentum": -1}, {"momentum": "much"}, {"nesterov": True}, {"foreach": True}])
def test_invalid_option_value_is_one_line(options: dict[str, Any]) -> None:
    with raises_one_line(r"^optimizer\.options=.*expected values that sgd accepts \(.+\)$"):
        optim.check_options("sgd", options)


def test_gpu_option_on_a_cpu_is_one_line() -> None:
    options = {"fused": False, "capturable": True}
    with raises_one_line(r"^optimizer\.options=.*expected values that adam accepts \(If capturable=True.+"):
        optim.check_options("adam", options, device=torch.device("cpu"))
    optim.check_options("adam", options, device=torch.device("cuda"))
    with pytest.raises(UserError, match="capturable"):
        checks.check(
            compose("freeze=head", "optimizer=adam", *(f"+optimizer.options.{k}={v}" for k, v in options.items()))
        )


def test_unsupported_weight_decay_is_one_line() -> None:
    with raises_one_line(r"^optimizer\.weight_decay=0\.05: expected 0, since rprop has no"):
        checks.check(compose("freeze=head", "optimizer=adamw", "optimizer.name=rprop"))
    optim.check_options("rprop", {}, weight_decay=0.0)
    optim.check_options("adamw", {}, weight_decay=0.05)
    groups = [{"params": [torch.ones(1)], "weight_decay": decay} for decay in (0.0, 0.05)]
    with pytest.raises(UserError, match="rprop has no weight decay"):
        optim.build("rprop", groups, lr=0.1, options={})


@pytest.mark.parametrize("name", ["adafactor", "adagrad", "adamax", "nadam", "radam", "rprop", "asgd", "adadelta"])
def test_further_optimizers_change_weights(name: str) -> None:
    model = network()
    before = model.module.fc.weight.detach().clone()
    list(train(model, mode("head"), images(8), optimizer=name))
    assert not torch.equal(before, model.module.fc.weight)


OFFERED = sorted(
    name.lower()
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and name.lower() not in optim._UNFIT
)
KERNELS: list[tuple[str, dict[str, Any]]] = [
    ("adam", {"amsgrad": True, "maximize": True, "eps": 0.1, "betas": [0.5, 0.8]}),
    ("adamw", {"amsgrad": True, "maximize": True}),
    ("adamw", {"fused": False}),
    ("sgd", {"momentum": 0.9, "nesterov": True}),
    ("sgd", {"momentum": 0.9, "dampening": 0.5, "maximize": True}),
    ("rmsprop", {"momentum": 0.9}),
]


def heads_of(
    name: str, decays: Sequence[float], options: dict[str, Any]
) -> list[tuple[list[nn.Parameter], torch.optim.Optimizer]]:
    """Return parameters of heads, with sizes that are no multiple of a vector register, and an optimizer for each."""
    made = torch.Generator().manual_seed(0)
    heads = []
    for decay in decays:
        parameters = [nn.Parameter(torch.randn(shape, generator=made)) for shape in ((7, 33), (7,))]
        known = "weight_decay" in signature(optim.optimizer_class(name)).parameters
        groups = [{"params": [one], "scales": (1.0,)} for one in parameters]
        for group, its in zip(groups, (decay, 0.0), strict=True):
            group |= {"weight_decay": its} if known else {}
        heads.append((parameters, optim.build(name, groups, lr=0.1, options=options)))
    return heads


@pytest.mark.parametrize("begun", [0, 2])
@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in OFFERED), *KERNELS])
def test_joined_heads_have_the_bits_of_single_ones(name: str, options: dict[str, Any], begun: int) -> None:
    """Heads that have `begun` alone are joined after as many steps."""
    decays = (0.1, 0.1, 0.2, 0.1)
    rates = [Rates(SCHEDULES["cosine"], lr, 6) for lr in (0.1, 0.1, 0.1, 0.01)]
    alone, together = heads_of(name, decays, options), heads_of(name, decays, options)
    made = torch.Generator().manual_seed(1)
    for step in range(6):
        for each, rate in zip(zip(alone, together, strict=True), rates, strict=True):
            (apart, _), (parameters, _) = each
            for mine, other in zip(parameters, apart, strict=True):
                other.grad = torch.randn(mine.shape, generator=made)
                mine.grad = mine.grad if step else torch.empty_like(mine)  # keeps its memory, as in a stack
                mine.grad.copy_(other.grad)
            for _, optimizer in each[: 2 if step < begun else 1]:
                rate.set(optimizer.param_groups, step)
                optimizer.step()
        if step == begun:
            joined = JoinedOptimizer([optimizer for _, optimizer in together], rates)
        if step >= begun:
            joined.set_rates(step)
            joined.step()
    sizes = sorted(len(group["params"]) for group in joined.param_groups)
    assert sizes == ([1, 1, 1, 2, 3] if "weight_decay" in joined.param_groups[0] else [2, 6])
    assert not joined.can_be_captured  # not on a CPU
    for (apart, optimizer), (parameters, one) in zip(alone, together, strict=True):
        for mine, other in zip(parameters, apart, strict=True):
            assert torch.equal(mine, other)
            for key, value in optimizer.state[other].items():
                assert torch.equal(torch.as_tensor(one.state[mine][key]), torch.as_tensor(value))


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "adagrad", "rmsprop"])
def test_optimizer_steps_increment_parameter_versions(name: str) -> None:
    parameter, frozen = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    built = optim.build(name, [{"params": [parameter, frozen]}], lr=0.1, options={})
    for _ in range(2):
        before = parameter._version
        parameter.grad = torch.ones(3)
        built.step()
        assert parameter._version > before and frozen._version == 0


def test_set_lr_multiplies_lr_scale_and_factor() -> None:
    built = optim.build("sgd", groups_of(network(), mode("lp_ft")), lr=1.0, options={})
    for number, scales in ((0, {"head": 1.0, "stem": 0.0}), (1, {"head": 0.1, "stem": 0.1})):
        schedule.set_lr(built.param_groups, lr=0.5, phase=number, factor=0.25)
        found = {group["name"].split(".")[0]: group["lr"] for group in built.param_groups}
        assert {stage: found[stage] for stage in scales} == pytest.approx({s: 0.125 * v for s, v in scales.items()})


def scheduled(name: str, **changes: Any) -> ScheduleConfig:
    return ScheduleConfig(**{**vars(SCHEDULES[name]), **changes})


def curve(chosen: ScheduleConfig, steps: int) -> list[float]:
    return [schedule.factor(chosen, step, steps) for step in range(steps)]


def test_constant_schedule() -> None:
    assert set(curve(SCHEDULES["constant"], 50)) == {1.0}


def test_step_schedule_falls_at_milestones() -> None:
    assert curve(SCHEDULES["step"], 8) == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_cosine_equals_torch_after_warm_up() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    theirs = torch.optim.SGD([parameter], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, T_max=80, eta_min=0.1)
    expected: list[float] = []
    for _ in range(80):
        expected.append(theirs.param_groups[0]["lr"])
        theirs.step()
        scheduler.step()
    ours = curve(scheduled("cosine", warmup=0.2, final=0.1), 100)
    assert ours[:20] == pytest.approx([(i + 1) / 20 for i in range(20)])
    assert ours[20:] == pytest.approx(expected)


def test_onecycle_equals_torch_but_for_a_step_at_each_end() -> None:
    theirs = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    ends = {"pct_start": 0.3, "div_factor": 25, "final_div_factor": 1e4 / 25, "cycle_momentum": False}
    scheduler = torch.optim.lr_scheduler.OneCycleLR(theirs, 1.0, total_steps=1000, **ends)
    expected: list[float] = []
    for _ in range(1000):
        expected.append(theirs.param_groups[0]["lr"])
        theirs.step()
        scheduler.step()
    ours = curve(SCHEDULES["onecycle"], 1000)
    assert ours == pytest.approx(expected, abs=3e-3)
    assert max(ours) == ours[299] == ours[300] == 1.0


fractions = st.floats(0, 0.99)


@given(
    st.sampled_from(sorted(SCHEDULES)),
    fractions,
    st.floats(0, 1),
    st.floats(0.01, 1),
    st.lists(st.floats(0.01, 0.99), max_size=3, unique=True).map(sorted),
    st.integers(1, 300),
)
def test_schedules_rise_to_lr_then_only_fall(
    name: str, warmup: float, final: float, gamma: float, milestones: list[float], steps: int
) -> None:
    chosen = ScheduleConfig(name, "phase", warmup, final, milestones, gamma)
    ours = curve(chosen, steps)
    warm = round(warmup * steps)
    assert all(0 <= value <= 1 + 1e-9 for value in ours)
    assert all(value > 0 for value in ours[: max(warm, 1)])  # the first step has an effect
    assert ours[:warm] == sorted(ours[:warm])
    assert ours[warm:] == sorted(ours[warm:], reverse=True)
    if warm:
        assert ours[warm - 1] == pytest.approx(1.0)
    elif name != "step":
        assert ours[0] == 1.0
    if name in ("cosine", "onecycle"):
        assert schedule.factor(chosen, steps, steps) == pytest.approx(final if steps > warm else 1.0)


@given(st.sampled_from(["cosine", "onecycle", "step"]), st.lists(st.integers(2, 40), min_size=2, max_size=4))
def test_schedule_per_phase_restarts_and_per_run_does_not(name: str, lengths: list[int]) -> None:
    """A run counts steps from the start of the phase, or from its own."""
    chosen = scheduled(name, warmup=0.0)
    total, parts = sum(lengths), [curve(chosen, length) for length in lengths]
    assert all(part[0] == 1.0 for part in parts)
    over_the_run = curve(chosen, total)
    assert over_the_run == sorted(over_the_run, reverse=True)


def test_factors_of_shortest_spans_are_finite() -> None:
    for chosen in SCHEDULES.values():
        for steps in (1, 2, 3):
            assert all(0 < value < inf for value in curve(chosen, steps))


def test_without_weight_decay_each_stage_is_one_group() -> None:
    groups = groups_of(on_meta("resnet18"), mode("full"), weight_decay=0.0)
    assert [group["name"].split(".")[0] for group in groups] == [*on_meta("resnet18").structure.stages]
