"""Shard parameters, gradients and optimizer state over the devices of a run, with torch's FSDP2.

Each process holds a share of every learning unit; the unit's parameters are gathered while it computes. Frozen
parameters, the head, and parameters outside units are replicated on every device. Reading a whole parameter is a
collective operation: all processes must do it together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:  # importing it takes half a second
    from torch.distributed.tensor import DTensor


def shard(module: nn.Module, units: Sequence[str], learning: Collection[str], device: torch.device) -> None:
    """Shard the parameters named in `learning` in the units at these dotted paths; a collective operation.

    Gradients are summed over the processes.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    still = {one for name, one in module.named_parameters() if name not in learning or not one.dim()}
    for name in learning:
        parameter = module.get_parameter(name)
        parameter.data = parameter.data.contiguous()  # channels_last tensors cannot be sharded
    for path in units:
        module.get_submodule(path).register_forward_hook(_no_view)
        unit = fully_shard(module.get_submodule(path), mesh=mesh, reshard_after_forward=True, ignored_params=still)
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)


def _no_view(unit: nn.Module, inputs: object, output: Any) -> Any:
    """Clone a unit's output if it is a view: FSDP's hook on it would be lost if it is written to later."""
    return output.clone() if isinstance(output, Tensor) and output._is_view() else output


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Return whether a tensor is sharded, i.e. each process holds only a share."""
    return hasattr(tensor, "full_tensor")


def any_sharded(module: nn.Module) -> bool:
    """Return whether a network has sharded parameters."""
    return any(map(is_sharded, module.parameters()))


def local(tensor: Tensor) -> Tensor:
    """Return this process's share of a tensor, in the same memory; the tensor itself if it is not sharded."""
    with torch.no_grad():
        return tensor.to_local() if is_sharded(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Return the whole tensor, gathered on the CPU if it is sharded; a collective operation."""
    return tensor.full_tensor().detach().cpu() if is_sharded(tensor) else tensor


def placeholder(tensor: Tensor) -> Tensor:
    """Return zeros of a sharded tensor's whole shape and type on the CPU, without memory; other tensors unchanged."""
    return torch.zeros((), dtype=tensor.dtype).expand(tensor.shape) if is_sharded(tensor) else tensor


def shard_of(own: Tensor, tensor: Tensor) -> Tensor:
    """Return this process's share of a whole `tensor`, sharded like `own`."""
    if not is_sharded(own):
        return tensor
    parts, number = tensor.chunk(own.device_mesh.size()), own.device_mesh.get_local_rank()
    return parts[number] if number < len(parts) else tensor[:0]


def whole_state(parameter: Tensor, value: Tensor) -> Tensor:
    """Return the whole of an optimizer's state tensor `value` of a sharded parameter; a collective operation."""
    if not is_sharded(parameter) or value.shape != local(parameter).shape:
        return value
    from torch.distributed.tensor import DTensor

    where = (parameter.device_mesh, parameter.placements)
    return whole(DTensor.from_local(value, *where, shape=parameter.shape, stride=parameter.stride()))


def optimized(parameter: nn.Parameter) -> nn.Parameter:
    """Return the parameter for an optimizer: this process's share as a plain parameter.

    torch's fused optimizers accept no others, and their state is elementwise, so shares are independent.
    """
    if not is_sharded(parameter):
        return parameter
    if not hasattr(parameter, "optimized"):
        parameter.optimized = nn.Parameter(local(parameter))  # type: ignore[attr-defined]
    found: nn.Parameter = parameter.optimized  # type: ignore[attr-defined]
    return found


def hand_gradients(module: nn.Module) -> None:
    """Move the gradients of sharded parameters to the optimizer's plain parameters."""
    for parameter in filter(is_sharded, module.parameters()):
        mine = optimized(parameter)  # type: ignore[arg-type]
        mine.data = local(parameter)
        mine.grad = None if parameter.grad is None else local(parameter.grad)
        parameter.grad = None


def outside_inference(compute: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return `compute` under no_grad instead of inference mode: a unit gathered in inference mode could not learn."""

    def computed(inputs: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            return compute(inputs.clone())

    return computed


@torch.no_grad()
def clip(parameters: Sequence[nn.Parameter], most: float) -> None:
    """Clip gradients like `clip_grad_norm_`, by the norm over all shares; a collective operation."""
    every = [parameter.grad for parameter in parameters if parameter.grad is not None]
    shares = [local(gradient) for gradient in every if is_sharded(gradient)]
    others = [gradient for gradient in every if not is_sharded(gradient)]
    square = torch.zeros((), device=every[0].device)
    for gradient in shares:
        square += gradient.square().sum()
    dist.all_reduce(square)
    for gradient in others:
        square += gradient.square().sum()
    torch._foreach_mul_([*shares, *others], (most / (square.sqrt() + 1e-6)).clamp(max=1))
