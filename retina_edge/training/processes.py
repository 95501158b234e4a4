"""The processes of one training run, as torchrun starts them; a run without torchrun is a group of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

# Rank 0 evaluates alone while the others wait, which on a large data set takes longer than torch's ten minutes.
EVALUATION_TIMEOUT = timedelta(hours=6)


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those of the run."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process evaluates, writes and reports."""
        return self.rank == 0

    def any_of(self, *flags: bool) -> tuple[bool, ...]:
        """Each flag, true if it is true in any process; all processes must call it together."""
        if self.world == 1:
            return flags
        values = torch.tensor(flags, dtype=torch.int32, device=self.device)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return tuple(bool(value) for value in values.tolist())

    def wait(self) -> None:
        """Returns when every process has come here."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def process_group(device: torch.device) -> Iterator[ProcessGroup]:
    """Joins the run that torchrun's environment names: NCCL between GPUs, gloo between CPUs."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield ProcessGroup(0, 1, device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=EVALUATION_TIMEOUT)
    try:
        yield ProcessGroup(dist.get_rank(), world, device)
    finally:
        dist.destroy_process_group()
