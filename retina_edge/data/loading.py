"""Batches for training, reproducible to the bit because each sample has its own seed.

The seed depends on the epoch and on the position of the sample in the epoch, not on the worker that makes the sample.
A resumed run therefore sees the same samples as an uninterrupted run, with any number of workers, even if it resumes in
the middle of an epoch.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import tv_tensors

from engines.core.contract import BIT_DEPTH
from engines.core.errors import RetinaEdgeError
from retina_edge.data.augment import Target, training_transform
from retina_edge.data.augment_options import AugmentOptions
from retina_edge.data.dataset import DetectionDataset

Sample = tuple[Tensor, Target]
Batch = tuple[Tensor, list[Target]]
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class AugmentedDataset(Dataset["Sample | RetinaEdgeError"]):
    """Augmented samples, indexed by (index of the image, seed).

    A sample is a crop, uint8 [H, W, 3] BGR like the contract's input, and its target: ``boxes``, float32 [N, 4] xyxy
    in pixels of the crop, and ``labels``, int64 [N].

    Args:
        data: data set that the images come from.
        options: augmentation of the images; both sizes must be set.
        bit_depth: bits that image files of 16 bits use.
    """

    def __init__(self, data: DetectionDataset, options: AugmentOptions, bit_depth: int = BIT_DEPTH) -> None:
        self.data, self.bit_depth = data, bit_depth
        self.transform = training_transform(options)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, item: tuple[int, int]) -> Sample | RetinaEdgeError:
        # DataLoader would turn an exception of a worker into text with a traceback. A returned error stays intact.
        try:
            return self.sample(*item)
        except RetinaEdgeError as error:
            return error

    def sample(self, index: int, seed: int) -> Sample:
        """Return a sample of an image; the same seed gives the same sample.

        Raises:
            SourceError: if the image cannot be decoded.
            DataError: if the image does not have the size given in the annotations.
        """
        labeled = self.data.images[index]
        rgb = torch.from_numpy(labeled.read(self.bit_depth)[:, :, ::-1].transpose(2, 0, 1).copy())
        target: Target = {
            "boxes": tv_tensors.BoundingBoxes(torch.from_numpy(labeled.boxes), format="XYXY", canvas_size=labeled.size),
            "labels": torch.from_numpy(labeled.labels),
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            image, target = self.transform(tv_tensors.Image(rgb), target)
        bgr = image.as_subclass(Tensor).flip(0).permute(1, 2, 0).contiguous()
        return bgr, {"boxes": target["boxes"].as_subclass(Tensor), "labels": target["labels"]}


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """The batches of one epoch for one of several processes, as lists of (index of the image, seed).

    Args:
        num_images: number of images in the data set.
        samples: number of samples in an epoch, over all processes; images repeat if there are fewer images.
        batch: number of samples in a batch of one process. All batches are full.
        seed: seed of the run.
        rank, world: index of this process, and number of processes.

    Attributes:
        batches: number of batches of one process in an epoch, at least 1.

    Examples:
        >>> sampler = EpochSampler(num_images=5, samples=4, batch=2, seed=0)
        >>> [[index for index, seed in batch] for batch in sampler]
        [[2, 4], [3, 0]]
    """

    def __init__(self, num_images: int, samples: int, *, batch: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.num_images, self.batch, self.seed, self.rank, self.world = num_images, batch, seed, rank, world
        self.batches = max(1, samples // (batch * world))
        self.epoch = 0
        self.start = 0

    def set_position(self, epoch: int, batch: int) -> None:
        """Choose the epoch to iterate over, and the index of its first batch."""
        self.epoch, self.start = epoch, batch

    def __len__(self) -> int:
        return self.batches - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = np.random.default_rng([self.seed, self.epoch])
        total = self.batches * self.batch * self.world
        rounds = -(-total // self.num_images)
        order = np.concatenate([generator.permutation(self.num_images) for _ in range(rounds)])[:total]
        seeds = generator.integers(2**63, size=total)
        for number in range(self.start, self.batches):
            first = (number * self.world + self.rank) * self.batch
            rows = slice(first, first + self.batch)
            yield list(zip(order[rows].tolist(), seeds[rows].tolist(), strict=True))


class BatchLoader:
    """The batches of an epoch, loaded in worker processes. Each iteration loads the epoch that the sampler is set to.

    Args:
        dataset: makes the samples.
        sampler: chooses the samples.
        workers: number of worker processes; 0 loads in this process.
    """

    def __init__(self, dataset: AugmentedDataset, sampler: EpochSampler, *, workers: int) -> None:
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=_collate,
            worker_init_fn=_init_worker,
            pin_memory=torch.cuda.is_available(),
        )

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches: crops, uint8 [N, H, W, 3], and a list of N targets.

        Raises:
            SourceError, DataError: if a sample failed, as in ``AugmentedDataset.sample``.
        """
        # Do not store the iterator in a variable: the traceback of an error would keep it alive, and its workers, too.
        for batch in self._start():
            if isinstance(batch, RetinaEdgeError):
                raise batch
            yield batch

    def samples(self, count: int) -> Batch:
        """Return a batch of a few samples, made in this process.

        Raises:
            SourceError, DataError: if a sample failed, as in ``AugmentedDataset.sample``.
        """
        data: Any = self._loader.dataset
        batch = _collate([data[index % len(data), index] for index in range(count)])
        if isinstance(batch, RetinaEdgeError):
            raise batch
        return batch

    def _start(self) -> Iterator[Any]:
        # A signal that arrives before ``_init_worker`` has run would kill the worker.
        with _signals_blocked():
            return iter(self._loader)


def _collate(samples: list[Sample | RetinaEdgeError]) -> Batch | RetinaEdgeError:
    good: list[Sample] = []
    for sample in samples:
        if isinstance(sample, RetinaEdgeError):
            return sample
        good.append(sample)
    images, targets = zip(*good, strict=True)
    return torch.stack(images), list(targets)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block Ctrl-C and SIGTERM in this thread and in the processes that it starts. This thread gets them afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _init_worker(_: int) -> None:
    # Ctrl-C, and the SIGTERM of systemd or Slurm, reach every process. Workers ignore both signals, because the
    # trainer stops in order and then ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        # SIGTERM must stay blocked, because only a blocked signal waits until the thread calls sigwaitinfo.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_end_with_trainer, daemon=True).start()
    else:  # macOS and Windows
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _end_with_trainer() -> None:
    """End this worker when its parent sends SIGTERM: at exit, the parent terminates its workers and waits for them."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)
