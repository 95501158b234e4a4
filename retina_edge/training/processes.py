"""The processes of one training run, as started by torchrun; a run without torchrun is a group of one process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from engines.core.processor import machine_memory, usable_cores

# Only rank 0 evaluates. On a large data set, the other processes wait for longer than torch's default of ten minutes.
EVALUATION_TIMEOUT = timedelta(hours=6)


@dataclass(frozen=True)
class ProcessGroup:
    """This process, as a member of the group of processes of a run.

    Attributes:
        rank: index of this process, from 0.
        world: number of processes.
        device: device that this process trains on.

    Examples:
        >>> group = ProcessGroup(rank=0, world=1, device=torch.device("cpu"))
        >>> group.is_main, group.any_of(False, True)
        (True, (False, True))
    """

    rank: int
    world: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True if this process evaluates, writes files and prints."""
        return self.rank == 0

    def any_of(self, *flags: bool) -> tuple[bool, ...]:
        """Return for each flag whether it is true in any process. All processes must call this method together."""
        if self.world == 1:
            return flags
        values = torch.tensor(flags, dtype=torch.int32, device=self.device)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return tuple(bool(value) for value in values.tolist())

    def of_main(self, values: Sequence[float]) -> tuple[float, ...]:
        """Return the values of the main process in every process. All processes must call this method together."""
        if self.world == 1:
            return tuple(values)
        shared = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.broadcast(shared, src=0)
        return tuple(shared.tolist())

    def wait(self) -> None:
        """Wait until all processes have called this method."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def process_group(device: torch.device) -> Iterator[ProcessGroup]:
    """Join the run that torchrun describes in the environment, with NCCL between GPUs and gloo between CPUs.

    Args:
        device: device to train on. Under torchrun, ``cuda`` becomes the GPU of this process.

    Examples:
        >>> with process_group(torch.device("cpu")) as group:
        ...     group.world
        1
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield ProcessGroup(0, 1, device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if dist.is_initialized():  # by a caller, for several runs
        yield ProcessGroup(dist.get_rank(), world, device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=EVALUATION_TIMEOUT)
    try:
        yield ProcessGroup(dist.get_rank(), world, device)
    finally:
        dist.destroy_process_group()


def describe(group: ProcessGroup) -> str:
    """Return the device and its memory as text for the user."""
    processes = f"{group.world} processes on " if group.world > 1 else ""
    if group.device.type == "cuda":
        free, total = (value / 2**30 for value in torch.cuda.mem_get_info(group.device))
        return f"{processes}{torch.cuda.get_device_name(group.device)}, {free:.1f} of {total:.1f} GiB of memory free"
    total = machine_memory()
    memory = f" and {total / 2**30:.0f} GiB of memory" if total else ""
    return f"{processes}a CPU with {usable_cores()} cores{memory}"
