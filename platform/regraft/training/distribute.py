"""The wrapping of a step for several ranks: precision, DDP or FSDP2, activation checkpointing and compilation."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import PreTrainedModel

from regraft.bases.adapted import Adapted
from regraft.errors import RequestError, Unsupported
from regraft.spec.sections import ComputeSpec
from regraft.training.harness import Harness
from regraft.training.step import StepModule


def make_accelerator(compute: ComputeSpec, harness: Harness) -> Accelerator:
    """Return an Accelerator of this run's precision, whatever an earlier run of this process chose."""
    if harness.world == 1:
        PartialState._reset_state()
    AcceleratorState._reset_state()
    GradientState._reset_state()
    return Accelerator(
        cpu=harness.device.type == "cpu",
        mixed_precision=precision(compute, harness.device),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


def precision(compute: ComputeSpec, device: torch.device) -> str:
    """Return accelerate's name of the precision: no, bf16 or fp16; raises RequestError for fp16 on a CPU."""
    if compute.precision == "fp16" and device.type == "cpu":
        raise RequestError("fp16 is written; a CPU trains in fp32 or bf16", where="compute.precision")
    if compute.precision == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    return "no" if compute.precision == "fp32" else compute.precision


def distribute(
    module: StepModule, adapted: Adapted, compute: ComputeSpec, accelerator: Accelerator, *, harness: Harness
) -> nn.Module:
    """Move the step module to its device, and return it wrapped for several ranks."""
    module.to(harness.device)
    if compute.activation_checkpointing:
        recompute_activations(adapted)
    if compute.strategy == "fsdp" and harness.world > 1 and not adapted.method.closed_form:
        shard(module, adapted, harness)
    if compute.compile:
        module.compile_model()
    if harness.world > 1 and compute.strategy == "ddp" and not adapted.method.closed_form:
        # DDP searches for unused parameters: it then keeps one bucket order, so that a resumed run adds gradients in
        # the order of the run it continues, and a head that leaves a pooler unused does not stop the second step.
        wrapped: nn.Module = accelerator.prepare_model(module)
        return wrapped
    return module


def recompute_activations(adapted: Adapted) -> None:
    """Enable activation checkpointing, in the base if a wrapper around it does not offer it; raises Unsupported.

    The re-entrant form would lose the gradients of the first block above a frozen trunk, whose input needs none.
    """
    for module in (adapted.model, adapted.model.get_submodule(adapted.anatomy.prefix)):
        if isinstance(module, PreTrainedModel):
            module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            return
    raise Unsupported("this model does not offer activation checkpointing", where="compute.activation_checkpointing")


def shard(module: StepModule, adapted: Adapted, harness: Harness) -> None:
    """Shard the model with FSDP2: each block separately, then the rest with the head; raises Unsupported for losses.

    The model is the root, not the step module: evaluation calls the model directly, and only a root gathers
    the weights outside the blocks.
    """
    if len(module.terms):
        raise Unsupported("losses with fsdp: their terms read whole parameters; use ddp", where="compute.strategy")
    mesh = init_device_mesh(harness.device.type, (harness.world,))
    modules = dict(adapted.model.named_modules())
    for name in adapted.anatomy.blocks:
        fully_shard(modules[name], mesh=mesh)
    fully_shard(adapted.model, mesh=mesh)
