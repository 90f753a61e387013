"""Parameters that are spread over processes cannot be ranked by one of them: they are refused by name.

Under DDP every rank holds all weights, computes the same masks from them and needs no messages.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, distributed

from pdp_export.errors import UsageError


def refuse_sharded(parameters: Iterable[tuple[str, Tensor]]) -> None:
    """Raise UsageError when one of the named parameters is a DTensor (FSDP2, tensor parallel) or a shard of FSDP1."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return  # nothing is sharded without a process group, and importing DTensor takes half a second
    from torch.distributed.tensor import DTensor

    for name, parameter in parameters:
        kind = "DTensor" if isinstance(parameter, DTensor) else "flattened shard"
        if isinstance(parameter, DTensor) or getattr(parameter, "_fsdp_flattened", False):
            raise UsageError(
                f"{name} is a {kind}: its weights are spread over {distributed.get_world_size()} processes, "
                "and pruning ranks them together",
                where=name,
                hint="train with DistributedDataParallel; FSDP and tensor parallelism are not supported",
            )
