"""An emulated machine with GPUs: tensors report `cuda:0`, the CPU computes, and the work of the GPU is counted.

torch's FakeTensorMode is not enough: without a GPU its backward pass raises in torch's engine, and reading a value
raises. A `CardTensor` has values, or only shapes. An `EmulatedMachine` refuses what a GPU refuses: tensors of several
devices in one operation, and operations without a deterministic form. It counts launches, waits of the host and copies
between host and GPU.

Operations captured in a graph are not executed; a replay is one launch, on the memory's content at that time. After a
failed capture, allocator and random generator stay in capture mode, as in torch 2.11. The current GPU is per thread.

It does not emulate kernels (their speed, last bits, unsupported shapes), cuDNN's choices, streams, memory that runs
out, or C++ code that needs the driver. Attention is computed by torch's math backend.
"""

from __future__ import annotations

import functools
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import frostline
from frostline.core import memory

aten = torch.ops.aten
CARD = torch.device("cuda", 0)
MEMORY = 80 << 30
"""Bytes of a GPU's memory."""
UNNOTICED = 1 << 10
"""Bytes that are copied from pageable memory without a wait: 64 KB on a GPU, less here because images are small."""

WAITING = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique2", "bincount", "is_nonzero"}
"""Operations whose result the host waits for."""
NOT_DETERMINISTIC = {
    *("_adaptive_avg_pool2d_backward", "adaptive_max_pool2d_backward", "avg_pool3d_backward", "max_unpool2d"),
    *("upsample_bilinear2d_backward", "upsample_bicubic2d_backward", "upsample_linear1d_backward"),
    *("reflection_pad1d_backward", "reflection_pad2d_backward", "replication_pad2d_backward"),
    *("grid_sampler_2d_backward", "fractional_max_pool2d_backward", "nll_loss2d_forward", "nll_loss2d_backward"),
    *("put_", "histc", "scatter_reduce", "_ctc_loss_backward", "embedding_bag", "median", "kthvalue"),
}
"""Operations that raise under `torch.use_deterministic_algorithms`, as listed in torch's documentation."""
SORTING = {
    *("scatter_add", "scatter_add_", "index_add", "index_add_"),
    *("index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put"),
}
"""Operations that deterministic algorithms implement by sorting; `index_put` only if it accumulates."""
DRAWING = {"bernoulli", "bernoulli_", "native_dropout", "uniform_", "normal_", "random_", "rand", "randn", "randint"}
"""Operations that draw random numbers."""
NO_LAUNCH = {"empty", "empty_like", "empty_strided", "new_empty", "detach", "alias", "_to_copy"}

_LOWER = {"conv2d", "linear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm", "einsum"}
_FLOAT = {"softmax", "log_softmax", "layer_norm", "group_norm", "norm", "exp", "pow", "sum", "cross_entropy", "log"}
# Operations that autocast runs in its dtype and in float32, as far as networks need them (torch.amp documentation).


class MixedDevices(RuntimeError):
    """An operation got tensors of several devices."""


class CardTensor(Tensor):
    """A tensor on a GPU: for C++ a meta tensor with CUDA's dispatch keys; its values are in `inner`."""

    inner: Tensor
    place: torch.device

    @staticmethod
    def __new__(cls, inner: Tensor, place: torch.device = CARD) -> CardTensor:
        with torch._C._DisableTorchDispatch():
            shell = torch.empty_strided(inner.shape, inner.stride(), dtype=inner.dtype, device="meta")
            self = torch.Tensor._make_subclass(cls, shell, False, device_for_backend_keys=place)
        self.inner, self.place = inner, place
        return self

    device = property(lambda self: self.place)
    is_cuda = property(lambda self: True)
    is_cpu = is_meta = property(lambda self: False)
    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def data(self) -> Tensor:
        """The values without autograd graph; setting it shares those of another tensor, which C++ does not notice."""
        return self.detach()

    @data.setter
    def data(self, other: CardTensor) -> None:
        assert self.shape == other.shape and self.place == other.place
        self.inner = other.inner

    def __deepcopy__(self, memo: dict[int, Any]) -> CardTensor:
        if id(self) not in memo:
            new = CardTensor(self.inner.clone(), self.place).requires_grad_(self.requires_grad)
            new._is_param = getattr(self, "_is_param", False)
            memo[id(self)] = new
        return memo[id(self)]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return EmulatedMachine.current.handle(func, args, kwargs or {})  # also in threads without the modes


class Graph:
    """A CUDA graph: operations on fixed memory."""

    def __init__(self) -> None:
        self._operations: list[tuple[Any, Any, Any, Any]] = []
        self._own: set[int] = set()
        """Addresses of memory that was allocated in the capture."""
        self._before: dict[int, tuple[Tensor, Tensor]] = {}
        """Tensors that captured operations write to, with their content before."""

    def add(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Capture an operation on the values of tensors, and return its outputs, which a replay fills."""
        for argument, value in zip(func._schema.arguments, args, strict=False):
            self._keep(argument, value)
        for argument in func._schema.arguments:
            self._keep(argument, kwargs.get(argument.name))
        made = func(*args, **kwargs)
        given = {id(one) for one in _leaves(args, kwargs)}
        for one in _tensors(made):
            if id(one) not in given and not _is_view(func):
                self._own.add(one.untyped_storage().data_ptr())
        self._operations.append((func, args, kwargs, made))
        return made

    def _keep(self, argument: Any, value: Any) -> None:
        written = argument.alias_info is not None and argument.alias_info.is_write
        for one in _tensors(value) if written else ():
            place = one.untyped_storage().data_ptr()
            if place not in self._own and place not in self._before:
                whole = one.as_strided((one.untyped_storage().nbytes() // one.itemsize,), (1,), 0)
                self._before[place] = (whole, whole.clone())

    def __del__(self) -> None:
        if (machine := getattr(EmulatedMachine, "current", None)) is not None and machine.capturing not in (None, self):
            machine.invalid = True

    def end(self) -> None:
        """Undo writes, as captured operations are not executed; memory allocated in the capture becomes undefined."""
        for func, _, _, made in self._operations:
            for one in _tensors(made) if not _is_view(func) else ():
                if one.untyped_storage().data_ptr() in self._own:
                    one.fill_(torch.nan if one.is_floating_point() else 1)
        for whole, held in self._before.values():
            whole.copy_(held)

    def replay(self) -> None:
        """Execute the captured operations as one launch."""
        EmulatedMachine.current.launches["graph"] += 1
        for func, args, kwargs, made in self._operations:
            if not _is_view(func):
                for old, new in zip(_tensors(made), _tensors(func(*args, **kwargs)), strict=True):
                    if old is not new:
                        old.copy_(new)


class EmulatedMachine(TorchDispatchMode):
    """A machine with `count` GPUs, and counts of what happens on them."""

    current: EmulatedMachine

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled under this mode; the default check takes a tenth of an operation's time

    def __init__(self, count: int = 1, *, numbers: bool = True, free: int = MEMORY, bf16: bool = True) -> None:
        """Without `numbers`, tensors have only shapes. `free` is in bytes per GPU; `bf16` is hardware support."""
        super().__init__()
        self.count, self.numbers, self.free, self.bf16 = count, numbers, free, bf16
        self.inside = torch.device("cpu" if numbers else "meta")
        self.started, self._of_thread, self.debug_mode = False, threading.local(), "default"
        self.launches: Counter[str] = Counter()
        """Operations by name."""
        self.waits: Counter[str] = Counter()
        """Waits of the host, by reason and calling function of frostline."""
        self.sent: Counter[str] = Counter()
        """Bytes sent from the host to a GPU, by calling function of frostline."""
        self.doubles: Counter[str] = Counter()
        """Operations with float64 results, slow on most GPUs, by calling function of frostline."""
        self.sorts: Counter[str] = Counter()
        self.kinds: set[str] = set()
        self.contexts: set[int] = set()
        """GPUs on which CUDA was started."""
        self.seeded: set[int] = set()
        """GPUs whose random generator was seeded."""
        self.exclusive = False
        """Whether a capture is under way in which no thread may wait for a GPU or copy to it."""
        self.invalid = False
        """Whether an illegal operation invalidated the capture."""
        self.stuck_pool: Any = None
        """GPU and private memory pool of a capture in progress, or of one that failed."""
        self.stuck_draws = False
        """Whether the random generator is in capture mode."""
        self.coming: list[tuple[Tensor, Tensor]] = []
        """Non-blocking copies to the host: the tensor, undefined until an event completes, and its later content."""
        EmulatedMachine.current = self

    def record_event(self) -> SimpleNamespace:
        """Return an event that completes after everything launched before it."""
        before = list(self.coming)

        def synchronize() -> None:
            self.wait(f"an event: {_here()}")
            with torch.inference_mode():
                for made, what in before:
                    made.copy_(what)

        return SimpleNamespace(synchronize=synchronize)

    @property
    def chosen(self) -> int:
        """The number of this thread's current GPU."""
        return getattr(self._of_thread, "chosen", 0)

    @property
    def capturing(self) -> Graph | None:
        """The graph in which this thread captures what it launches."""
        return getattr(self._of_thread, "graph", None)

    @capturing.setter
    def capturing(self, graph: Graph | None) -> None:
        self._of_thread.graph = graph

    @contextmanager
    def capture(self, graph: Graph, *, stream: Any, capture_error_mode: str, pool: Any = "own") -> Iterator[None]:
        """Capture what the block launches in `graph`, without executing it."""
        self.empty_cache()
        self.capturing, self.stuck_pool, self.stuck_draws, self.invalid = graph, (self.chosen, pool), True, False
        self.exclusive = capture_error_mode == "global"
        try:
            yield
        finally:
            self.capturing, self.exclusive = None, False
            graph.end()
            if self.invalid:
                raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
            self.stuck_pool, self.stuck_draws = None, False

    def empty_cache(self) -> None:
        """Release cached memory."""
        if self.stuck_pool is not None:
            raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")

    def end_pool(self, device: int, pool: Any) -> None:
        """End the allocation from a private pool."""
        if self.stuck_pool != (device, pool):
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.stuck_pool = None

    def wait(self, why: str) -> None:
        """Count a wait of the host; raise in the debug mode `error`, which sees no pageable copies or `synchronize`."""
        self.refuse_while_capturing()
        self.waits[why] += 1
        if self.debug_mode == "error" and not why.startswith(("from pageable memory", "all work")):
            raise RuntimeError("called a synchronizing CUDA operation")

    def set_sync_debug_mode(self, mode: str) -> None:
        """Set what a wait of the host does."""
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=2)
        self.debug_mode = mode

    def refuse_while_capturing(self) -> None:
        """Raise while capturing: a graph has no waits and no copies from the host."""
        if self.capturing is not None or self.exclusive:
            self.invalid = True
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    def at(self, device: torch.device) -> torch.device:
        """Return the GPU that a device means; raises as CUDA does if it does not exist."""
        index = self.chosen if device.index is None else device.index
        if index >= self.count:
            raise RuntimeError("CUDA error: invalid device ordinal")
        return torch.device("cuda", index)

    def arrive(
        self, source: Tensor, place: torch.device, *, later: bool, pinned: bool = False, **kwargs: Any
    ) -> CardTensor:
        """Copy a tensor from the host to a GPU; with `later` without waiting."""
        self.refuse_while_capturing()
        self.sent[_here()] += source.nbytes
        if not later:
            self.wait(f"from the host: {_here()}")
        elif source.nbytes > UNNOTICED and not pinned:
            self.wait(f"from pageable memory: {_here()}")
        return CardTensor(aten._to_copy.default(self._inside(source), **kwargs), place)

    def _inside(self, value: Any) -> Any:
        """Return `value` with GPU tensors, also inside lists, tuples and dicts, replaced by their values."""
        kind = type(value)
        if kind is CardTensor:
            return value.inner
        if kind is tuple or kind is list:
            return kind([self._inside(one) for one in value])
        if kind is dict:
            return {key: self._inside(one) for key, one in value.items()}
        if not self.numbers and isinstance(value, Tensor):
            return aten._to_copy.default(value, device=self.inside)
        return value

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.handle(func, args, kwargs or {})

    def handle(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Execute an operation on the device of its tensors."""
        name = func.__name__.partition(".")[0]
        leaves = _leaves(args, kwargs)
        cards = [one for one in leaves if type(one) is CardTensor]
        if func is aten.is_pinned.default:
            return False
        if name in ("_pin_memory", "pin_memory"):
            copied = args[0].clone()
            copied.pinned = True
            return copied
        if func is aten.scalar_tensor.default and kwargs.get("device") == torch.device("meta"):  # for a GPU tensor
            return CardTensor(func(*args, **{**kwargs, "device": self.inside}), self.at(torch.device("cuda")))
        if not cards:
            device = kwargs.get("device")
            if device is None or torch.device(device).type != "cuda":
                return func(*args, **kwargs)
            self.launches[name] += name not in NO_LAUNCH
            return CardTensor(func(*args, **{**kwargs, "device": self.inside}), self.at(torch.device(device)))
        if torch.is_inference_mode_enabled() and _is_composite(func):  # not decomposed before, in inference mode
            with self:
                return func.decompose(*args, **kwargs)
        if kwargs.get("device") == torch.device("meta"):  # C++ sees GPU tensors as meta tensors
            kwargs = {key: value for key, value in kwargs.items() if key != "device"}
        return self._on_card(func, name, leaves, cards, args, kwargs)

    def _on_card(
        self, func: Any, name: str, leaves: list[Any], cards: list[CardTensor], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        self.kinds.add(func.name())
        if name == "_to_copy" and kwargs.get("device") is not None:
            inner = args[0].inner if self.numbers else torch.zeros(args[0].shape, dtype=args[0].dtype)
            made = func(inner, **{key: value for key, value in kwargs.items() if key != "non_blocking"})
            if not kwargs.get("non_blocking"):
                self.wait(f"to the host: {_here()}")
                return made
            self.refuse_while_capturing()
            self.coming.append((made, made.clone()))
            return made.fill_(torch.nan if made.is_floating_point() else 1)
        if name == "copy_" and {type(args[0]), type(args[1])} != {CardTensor}:
            self.refuse_while_capturing()
            self.sent[_here()] += args[1].nbytes if isinstance(args[0], CardTensor) else 0
            if not (len(args) > 2 and args[2]):
                self.wait(f"a copy between devices: {_here()}")
            func(*map(self._inside, args[:2]))
            return args[0]
        self._require_possible(func, name, leaves, cards, args)
        if name in WAITING:
            self.wait(f"{name}: {_here()}")
            if not self.numbers:
                return True if name == "equal" else 0.5 if args[0].dtype.is_floating_point else 1
        own = {id(card.inner): card for card in cards}
        if self.capturing is not None:
            made = self.capturing.add(func, self._inside(args), self._inside(kwargs))
        else:
            self.launches[name] += not (_is_view(func) or (name in NO_LAUNCH and not kwargs.get("dtype")))
            made = func(*self._inside(args), **self._inside(kwargs))
            self.doubles[_here()] += any(one.dtype is torch.float64 for one in _tensors(made))

        def placed(one: Any) -> Any:
            if not isinstance(one, Tensor):
                return one
            return own[id(one)] if id(one) in own else CardTensor(one, cards[0].place)

        outside = torch.is_inference_mode_enabled() and _is_view(func) and not cards[0].is_inference()
        with torch.inference_mode(False) if outside else nullcontext():  # a view is an inference tensor if its base is
            return _changed(placed, made)

    def _require_possible(self, func: Any, name: str, leaves: list[Any], cards: list[CardTensor], args: Any) -> None:
        """Raise for operations that a GPU refuses; zero-dimensional tensors may be on the host."""
        others = [one for one in leaves if type(one) is not CardTensor and isinstance(one, Tensor) and one.dim()]
        indexes = name in ("index", "index_put", "index_put_", "_index_put_impl_")  # torch copies these indices itself
        if indexes and all(one.dtype in (torch.int64, torch.bool) for one in others):
            for one in others:
                self.sent[_here()] += one.nbytes
                self.wait(f"an index from the host: {_here()}")
            others = []
        if others or len({card.place for card in cards}) > 1:
            places = [*(card.place for card in cards), *(one.device for one in others)]
            raise MixedDevices(f"{func}: {', '.join(map(str, places))}")
        if name in DRAWING and self.stuck_draws and self.capturing is None:
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")
        if torch.are_deterministic_algorithms_enabled():
            if name in NOT_DETERMINISTIC or (name == "cumsum" and cards[0].dtype.is_floating_point):
                raise RuntimeError(f"{name} does not have a deterministic implementation")
            accumulates = "put" not in name or (len(args) > 3 and args[3])
            self.sorts[name] += name in SORTING and accumulates

    @contextmanager
    def running(self) -> Iterator[EmulatedMachine]:
        """Let torch and frostline see this machine in the block."""
        stream = SimpleNamespace(is_capturing=lambda: False)
        group = torch.utils._foreach_utils._group_tensors_by_device_and_dtype

        def grouped(lists: Any, with_indices: bool = False) -> Any:
            place = self.at(torch.device("cuda"))
            return {(place, dtype): value for (_, dtype), value in group(lists, with_indices).items()}

        overwriting = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        with ExitStack() as stack:
            for name, value in self._seen().items():
                stack.enter_context(patch.object(torch.cuda, name, value))
            stack.enter_context(patch.object(torch.accelerator, "current_stream", lambda device=None: stream))
            stack.enter_context(patch.object(memory, "gc", SimpleNamespace(collect=int)))  # there is nothing to release
            stack.enter_context(patch.object(torch._C, "_cuda_endAllocateToPool", self.end_pool, create=True))
            for module in ("torch.optim.swa_utils", "torch.optim.optimizer", "torch.nn.utils.clip_grad"):
                stack.enter_context(patch(f"{module}._group_tensors_by_device_and_dtype", grouped))
            stack.enter_context(patch("torch.nn.utils.clip_grad._has_foreach_support", lambda tensors, device: True))
            types = [Tensor, nn.Parameter, CardTensor]
            stack.enter_context(patch("torch.optim.optimizer._foreach_supported_types", types))
            stack.enter_context(torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH))
            stack.enter_context(self)
            stack.enter_context(_Functions(self))
            try:
                yield self
            finally:
                torch.__future__.set_overwrite_module_params_on_conversion(overwriting)

    def _seen(self) -> dict[str, Any]:
        """Return replacements for attributes of `torch.cuda`."""

        def start(device: Any = None) -> int:
            self.started = True
            index = device if isinstance(device, int) else None if device is None else torch.device(device).index
            self.contexts.add(self.chosen if index is None else index)
            return self.chosen

        def synchronize(device: Any = None) -> None:
            start(device)
            self.wait(f"all work: {_here()}")

        def told(value: Any) -> Callable[..., Any]:
            def of(device: Any = None) -> Any:
                start(device)
                return value

            return of

        def choose(device: Any) -> None:
            self._of_thread.chosen = device if isinstance(device, int) else torch.device(device).index or 0
            start()

        def reset(device: Any) -> None:
            if torch.device(device).index is not None and not self.started:
                raise RuntimeError("Invalid device argument: did you call init?")  # as torch does
            start(device)

        def generator(index: int) -> SimpleNamespace:
            def seed(number: int) -> None:
                self.seeded.add(index)
                torch.default_generator.manual_seed(number)

            return SimpleNamespace(manual_seed=seed)

        return {
            **{"is_available": lambda: self.count > 0, "device_count": lambda: self.count, "init": start},
            **{"is_current_stream_capturing": lambda: self.capturing is not None},
            **{"CUDAGraph": Graph, "graph": self.capture, "Stream": lambda device: None, "stream": nullcontext},
            **{"current_stream": lambda device: self, "graph_pool_handle": object},
            **{"set_sync_debug_mode": self.set_sync_debug_mode},
            **{"is_initialized": lambda: self.started, "current_device": start, "synchronize": synchronize},
            **{"set_device": choose, "reset_peak_memory_stats": reset, "empty_cache": self.empty_cache},
            **{"mem_get_info": told((self.free, MEMORY))},
            **{"memory_reserved": told(0), "max_memory_allocated": told(1)},
            **{"utilization": told(50), "get_device_name": told("a card")},
            **{"get_device_capability": told((9, 0) if self.bf16 else (7, 5))},
            **{"is_bf16_supported": lambda: True},  # or emulated
            **{"get_device_properties": lambda device=None: SimpleNamespace(major=9, minor=0)},
            **{"default_generators": tuple(map(generator, range(self.count)))},
        }


_ELSEWHERE = {Tensor.tolist, Tensor.to}
"""Functions that may move a tensor to another device without a keyword."""


class _Functions(TorchFunctionMode):
    """Hides CUDA devices from torch's C++, which would look for a driver, and emulates autocast."""

    def __init__(self, machine: EmulatedMachine) -> None:
        super().__init__()
        self._machine = machine

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        casts = torch.is_autocast_enabled("cuda")
        if not (kwargs or casts or func in _ELSEWHERE):  # most calls: keep them fast
            return func(*args)
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if func is Tensor.tolist and isinstance(args[0], CardTensor):
            return args[0].cpu().tolist()
        if func is Tensor.to:
            return self._to(*args, **kwargs)
        if casts and (name in _LOWER or name in _FLOAT):
            wrong, right = torch.float32, torch.get_autocast_dtype("cuda")
            wrong, right = (wrong, right) if name in _LOWER else (right, wrong)

            def cast(one: Any) -> Any:
                return one.to(dtype=right) if isinstance(one, CardTensor) and one.dtype == wrong else one

            args, kwargs = _changed(cast, args), _changed(cast, kwargs)
        device = kwargs.get("device")
        if device is None or torch.device(device).type != "cuda":
            return func(*args, **kwargs)
        made = func(*args, **{**kwargs, "device": self._machine.inside})
        if isinstance(made, CardTensor):
            return made
        if name in ("tensor", "as_tensor"):  # from values of the host
            return self._machine.arrive(made, self._machine.at(torch.device(device)), later=False)
        self._machine.launches[name] += name not in NO_LAUNCH
        return CardTensor(made, self._machine.at(torch.device(device)))

    def _to(self, source: Tensor, *rest: Any, **kwargs: Any) -> Tensor:
        later = kwargs.pop("non_blocking", False) or any(one is True for one in rest[1:])
        device = kwargs.pop("device", None)
        for one in rest:
            if isinstance(one, torch.device | str):
                device = one
            elif isinstance(one, torch.dtype):
                kwargs["dtype"] = one
        kwargs = {key: value for key, value in kwargs.items() if value is not None}
        if isinstance(source, CardTensor) and device is not None and torch.device(device).type == "meta":
            return torch.empty_like(source.inner, device="meta", **kwargs)
        if device is None or torch.device(device).type != "cuda":
            how = {} if device is None else {"device": device, "non_blocking": later}
            return source.to(**kwargs, **how)
        if isinstance(source, CardTensor):
            return source.to(**kwargs) if kwargs else source
        kwargs |= {"later": later, "pinned": getattr(source, "pinned", False)}
        return self._machine.arrive(source.detach(), self._machine.at(torch.device(device)), **kwargs)


def move(network: nn.Module) -> None:
    """Move a network without values to the GPU, which `Module.to` cannot."""
    for part in network.modules():
        for key, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[key] = nn.Parameter(CardTensor(parameter.detach()), parameter.requires_grad)
        for key, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[key] = CardTensor(buffer)


def _leaves(*values: Any) -> list[Any]:
    """Return the elements of nested lists, tuples and dicts, ten times as fast as pytree."""
    found = []
    for one in values:
        kind = type(one)
        if kind is tuple or kind is list:
            found += _leaves(*one)
        elif kind is dict:
            found += _leaves(*one.values())
        else:
            found.append(one)
    return found


def _tensors(value: Any) -> list[Tensor]:
    return [one for one in _leaves(value) if isinstance(one, Tensor)]


def _changed(change: Callable[[Any], Any], value: Any) -> Any:
    """Return `value` with `change` applied to the elements of nested lists, tuples and dicts."""
    if type(value) in (list, tuple):
        return type(value)([_changed(change, one) for one in value])
    if type(value) is dict:
        return {key: _changed(change, one) for key, one in value.items()}
    return change(value)


_HOME = str(Path(frostline.__file__).parent)


def _here() -> str:
    """Return the innermost running function of frostline as `module.function`."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename.startswith(_HOME):
            return f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}"
        frame = frame.f_back
    return "outside"


@functools.cache
def _is_composite(func: Any) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


@functools.cache
def _is_view(func: Any) -> bool:
    alias = func._schema.returns[0].alias_info if func._schema.returns else None
    return alias is not None and not alias.is_write
