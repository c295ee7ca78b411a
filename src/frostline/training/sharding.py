"""Parameters that lie in shares on the devices of a run, with their gradients and optimizer state: torch's FSDP2.

Of a unit of the network that learns each process holds a share; the whole is there while the unit computes. What never
learns, the head, and what is no layer's own lie whole on every device. Whatever reads a parameter as a whole is done by
all processes at that moment.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:  # which takes half a second, of every run
    from torch.distributed.tensor import DTensor


def shard(module: nn.Module, units: Sequence[str], learning: Collection[str], device: torch.device) -> None:
    """Keep of the parameters called `learning` in the units at these dotted paths a share alone; all processes do it.

    Gradients are summed over the processes.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    still = {one for name, one in module.named_parameters() if name not in learning or not one.dim()}
    for name in learning:
        parameter = module.get_parameter(name)
        parameter.data = parameter.data.contiguous()  # channels last cannot be cut
    for path in units:
        module.get_submodule(path).register_forward_hook(_no_view)
        unit = fully_shard(module.get_submodule(path), mesh=mesh, reshard_after_forward=True, ignored_params=still)
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)


def _no_view(unit: nn.Module, inputs: object, output: Any) -> Any:
    """Return the output of a unit, which torch loses sight of where it is a view that is written to later."""
    return output.clone() if isinstance(output, Tensor) and output._is_view() else output


def is_shared(tensor: Tensor) -> TypeGuard[DTensor]:
    """Return whether a process holds a share of a tensor alone."""
    return hasattr(tensor, "full_tensor")


def any_shared(module: nn.Module) -> bool:
    """Return whether a network has parameters of which a process holds a share alone."""
    return any(map(is_shared, module.parameters()))


def local(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor, in the same memory."""
    with torch.no_grad():
        return tensor.to_local() if is_shared(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor as a whole, on the CPU if it lies in shares; all processes do it."""
    return tensor.full_tensor().detach().cpu() if is_shared(tensor) else tensor


def placeholder(tensor: Tensor) -> Tensor:
    """Return something of a tensor's shape and type on the CPU if it lies in shares, else the tensor."""
    return torch.zeros((), dtype=tensor.dtype).expand(tensor.shape) if is_shared(tensor) else tensor


def share_of(own: Tensor, tensor: Tensor) -> Tensor:
    """Return what this process holds of a whole `tensor` that lies as its `own` does."""
    if not is_shared(own):
        return tensor
    parts, number = tensor.chunk(own.device_mesh.size()), own.device_mesh.get_local_rank()
    return parts[number] if number < len(parts) else tensor[:0]


def whole_state(parameter: Tensor, value: Tensor) -> Tensor:
    """Return what an optimizer keeps of its share of a parameter as a whole; all processes do it."""
    if not is_shared(parameter) or value.shape != local(parameter).shape:
        return value
    from torch.distributed.tensor import DTensor

    where = (parameter.device_mesh, parameter.placements)
    return whole(DTensor.from_local(value, *where, run_check=False, shape=parameter.shape, stride=parameter.stride()))


def optimized(parameter: nn.Parameter) -> nn.Parameter:
    """Return what an optimizer is given of a parameter: the share of this process, as a plain one.

    torch's fused optimizers know no other, and what they keep of each number depends on that alone.
    """
    if not is_shared(parameter):
        return parameter
    if not hasattr(parameter, "optimized"):
        parameter.optimized = nn.Parameter(local(parameter))  # type: ignore[attr-defined]
    found: nn.Parameter = parameter.optimized  # type: ignore[attr-defined]
    return found


def hand_gradients(module: nn.Module) -> None:
    """Give the gradients of shares to what an optimizer has of them."""
    for parameter in filter(is_shared, module.parameters()):
        mine = optimized(parameter)  # type: ignore[arg-type]
        mine.data = local(parameter)
        mine.grad = None if parameter.grad is None else local(parameter.grad)
        parameter.grad = None


def outside_inference(compute: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return what computes the same without gradients: a unit that is put together in inference mode cannot learn."""

    def computed(inputs: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            return compute(inputs.clone())

    return computed


@torch.no_grad()
def clip(parameters: Sequence[nn.Parameter], most: float) -> None:
    """Do what `clip_grad_norm_` does, with the norm of all shares."""
    every = [parameter.grad for parameter in parameters if parameter.grad is not None]
    shares = [local(gradient) for gradient in every if is_shared(gradient)]
    others = [gradient for gradient in every if not is_shared(gradient)]
    square = torch.zeros((), device=every[0].device)
    for gradient in shares:
        square += gradient.square().sum()
    dist.all_reduce(square)
    for gradient in others:
        square += gradient.square().sum()
    torch._foreach_mul_([*shares, *others], (most / (square.sqrt() + 1e-6)).clamp(max=1))
