"""Choose the runs of a sweep that train their heads in lockstep, and provide the stepper of each run.

The first run leads: it executes the steps of all. The others, which this process executes after it, take over the
results, and keep their own journal, checkpoint, best epoch and patience. If the leader stops early, the next run leads;
an interrupted run continues alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from frostline.core.config import Config
from frostline.core.config_keys import digest, takes_plain_head_steps
from frostline.models import build
from frostline.runs.run_context import RunContext
from frostline.runs.run_data import augment_policy
from frostline.runs.setup import Setup, recipe
from frostline.training import gradient, optim
from frostline.training.gradient import Head
from frostline.training.lockstep import FinishedEpoch, Member, Stack, bytes_kept
from frostline.training.schedule import Rates
from frostline.training.state import Learner
from frostline.training.steps import Step, Stepper, TrainedPart

_KEPT = 2**29  # bytes of epoch results that wait to be taken over


@dataclass(frozen=True)
class Group:
    """The heads that this process trains in lockstep, kept across its consecutive runs."""

    stack: Stack
    members: Mapping[str, Member]
    """By the digest of their run."""
    origin: Mapping[str, str]
    """Their common starting point."""


_group: Group | None = None


def _member(key: str, origin: Mapping[str, str]) -> Member | None:
    """Return the head of the run with the digest `key`, if its steps were executed from the same `origin`.

    If not, all heads are dropped: runs of a group are consecutive, so no further one comes.
    """
    global _group
    if _group is None or key not in _group.members or origin != _group.origin:
        _group = None
        return None
    return _group.members[key]


class LockstepStepper(Stepper):
    """The stepper of one run: takes over results, leads other runs in lockstep, or trains alone."""

    def __init__(
        self,
        setup: Setup,
        learner: Learner,
        origin: Mapping[str, str],
        run: RunContext,
        alone: Stepper,
    ) -> None:
        """Execute the steps of `learner`, which began from `origin`.

        `run.siblings()` is called if the run can lead. `alone` executes the steps if there is no lockstep.
        """
        self._setup, self._learner, self._origin, self._say = setup, learner, origin, run.screen.say
        self._siblings = run.siblings
        self._key = digest(setup.config)
        self._member = _member(self._key, origin)
        self._alone = alone
        self._stack: Stack | None = None
        self._undecided = True
        self.max_runs_per_step = 1
        """Largest number of runs that shared a step with this one, itself included."""

    @property
    def runs_per_step(self) -> int:
        """Number of runs that share a step."""
        return len(self._stack.members) if self._stack else 1

    def restore_finished(self, epoch: int) -> FinishedEpoch | None:
        """If another run executed the steps of this epoch, restore network and optimizer to its end and return it."""
        finished = self._member.finished.pop(epoch, None) if self._member else None
        linear = self._setup.model.module.get_submodule(self._setup.model.structure.heads[0])
        if finished is None or not isinstance(linear, nn.Linear):
            self._member = None  # from now on this run trains alone
            return None
        if self.max_runs_per_step == 1:
            self._say(f"  in lockstep: its head was trained together with {_others(finished.heads)}")
        self.max_runs_per_step = max(self.max_runs_per_step, finished.heads)
        finished.restore(linear, self._learner.optimizer)
        return finished

    def epoch_took(self, epoch: int, seconds: float) -> None:
        """Charge the runs whose steps this one has executed with the same training time."""
        if self._stack is not None:
            self._stack.epoch_took(epoch, seconds)

    def steps(self, part: TrainedPart, indices: Sequence[Tensor], epoch: int, first: int) -> Iterator[Step]:
        """Execute a step on each batch of `indices` lazily, and yield it."""
        whole = len(indices) == self._setup.steps_per_epoch
        if self._undecided and whole:
            self._stack = self._lead(part, indices, epoch, first)
        self._undecided = False
        if self._stack is None:
            return self._alone.steps(part, indices, epoch, first)
        return self._stack.steps(indices, epoch, first)

    def _lead(self, part: TrainedPart, indices: Sequence[Tensor], epoch: int, first: int) -> Stack | None:
        """Return a stack of the heads of this run and its siblings; None if lockstep is impossible or not faster.

        On a GPU a stack of a single head is faster, too, since its step is one launch.
        """
        global _group
        head, config = gradient.head_of(part.network), self._setup.config
        if head is None or not part.data.cached or part.autocast is not None or not takes_plain_head_steps(config):
            return None
        on_cpu = part.data.labels.device.type == "cpu"
        if on_cpu and not gradient.is_small(head, len(indices[0])):
            return None
        siblings = {digest(one): one for one in self._siblings() if _shares_features(self._setup, one)}
        if not siblings and (on_cpu or self._setup.ranks is not None):
            return None
        me = self._member_of(config, head, self._learner.optimizer)
        others: dict[str, Member] = {}
        if epoch == 1:
            room = _KEPT // bytes_kept(me, config.epochs)
            others = {key: self._beginner(head, one) for key, one in islice(siblings.items(), room)}
        elif _group is not None and _group.stack.reached == epoch - 1:
            others = {key: _group.members[key] for key in siblings if key in _group.members}
        if not others and on_cpu:
            return None
        stack = self._agreeing([me, *others.values()], part, indices, epoch, first)
        if stack is None and others and not on_cpu and self._setup.ranks is None:
            others, stack = {}, self._agreeing([me], part, indices, epoch, first)
        if stack is None:
            return None
        _group = Group(stack, {self._key: me, **others}, self._origin)
        self.max_runs_per_step = len(stack.members)
        if others:
            self._say(f"  in lockstep with {_others(self.max_runs_per_step)} on the same features")
        return stack

    def _agreeing(
        self, members: Sequence[Member], part: TrainedPart, indices: Sequence[Tensor], epoch: int, first: int
    ) -> Stack | None:
        """Return a stack of `members`, or None and a note if they would not get the bits that each gets alone."""
        stack = Stack(members, part.data, self._say)
        if stack.agrees(indices, epoch, first):
            return stack
        self._say("  note: not in lockstep, since here heads side by side are rounded differently from each alone")
        return None

    def _beginner(self, head: Head, config: Config) -> Member:
        """Return the initial head of the run of `config`; this run must be at its beginning, too."""
        setup, linear = self._setup, head.linear
        if setup.model.new_head and config.seed != setup.config.seed:
            own = build.new_head(setup.model, linear.out_features, config.seed).to(linear.weight.device)
        else:
            own = nn.Linear(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
            own = own.to_empty(device=linear.weight.device)
            own.load_state_dict(linear.state_dict())
        assert isinstance(own, nn.Linear)
        how = config.optimizer
        groups = optim.param_groups(
            _at(setup.model.structure.heads[0], own),
            setup.model.structure,
            setup.phases,
            weight_decay=how.weight_decay,
            decay_norm_and_bias=how.decay_norm_and_bias,
        )
        optimizer = optim.build(how.name, groups, lr=config.lr, options=how.options)
        return self._member_of(config, Head(head.before, own), optimizer)

    def _member_of(self, config: Config, head: Head, optimizer: torch.optim.Optimizer) -> Member:
        rates = Rates(config.schedule, config.lr, config.epochs * self._setup.steps_per_epoch)
        return Member(head, optimizer, rates, recipe(config, self._setup.data))


def _others(runs: int) -> str:
    return "1 other run" if runs == 2 else f"{runs - 1} other runs"


def _shares_features(setup: Setup, config: Config) -> bool:
    """Return whether the run of `config`, which differs only in options of steps, reads the features of `setup`."""
    seeds = setup.config.model.weights is not None and not augment_policy(config).random
    return seeds or config.seed == setup.config.seed


def _at(path: str, layer: nn.Module) -> nn.Module:
    """Return a module tree that has only `layer`, at a dotted `path`."""
    for name in reversed(path.split(".")):
        parent = nn.Module()
        parent.add_module(name, layer)
        layer = parent
    return layer
