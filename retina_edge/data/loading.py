"""Batches for training, reproducible to the bit because each sample has its own seed.

The seed depends on the epoch and on the position of the sample in the epoch, not on the worker that makes the sample.
A resumed run therefore sees the same samples as an uninterrupted run, with any number of workers, even if it resumes in
the middle of an epoch. The other images of a mosaic follow from the seed, too.
"""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Iterator, Sequence
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
from retina_edge.data.augment import Augmentation, Target
from retina_edge.data.augment_options import AugmentOptions
from retina_edge.data.composition import Labeled
from retina_edge.data.dataset import DetectionDataset

Sample = tuple[Tensor, Target]
Batch = tuple[Tensor, list[Target]]
# What a sample is made from: the index of its image, its seed, and whether it may be composed of several images.
Item = tuple[int, int, bool]
# The last share of a run, without samples of several images, because a detector sees natural ones.
NATURAL_SHARE = 0.15
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class AugmentedDataset(Dataset["Sample | RetinaEdgeError"]):
    """Augmented samples, indexed by (index of the image, seed, whether it may be composed of several images).

    A sample is a crop, uint8 [H, W, 3] BGR like the contract's input, and its target: ``boxes``, float32 [N, 4] xyxy
    in pixels of the crop, and ``labels``, int64 [N].

    Args:
        data: data set that the images come from.
        options: augmentation of the images; both sizes must be set.
        bit_depth: bits that image files of 16 bits use.
    """

    def __init__(self, data: DetectionDataset, options: AugmentOptions, bit_depth: int = BIT_DEPTH) -> None:
        self.data, self.bit_depth = data, bit_depth
        self.options, self.augment = options, Augmentation(options)
        self._with_objects = [index for index, image in enumerate(data.images) if len(image.boxes)]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, item: Item) -> Sample | RetinaEdgeError:
        # DataLoader would turn an exception of a worker into text with a traceback. A returned error stays intact.
        try:
            return self.sample(*item)
        except RetinaEdgeError as error:
            return error

    def sample(self, index: int, seed: int, composed: bool = True) -> Sample:
        """Return a sample of an image; the same seed gives the same sample.

        Args:
            index: index of the image.
            seed: seed of all that is random, also of the choice of other images.
            composed: False for a sample without other images, whatever the options are.

        Raises:
            SourceError: if the image, or another one in the sample, cannot be decoded.
            DataError: if an image does not have the size given in the annotations.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            everything = range(len(self.data))
            partners = self._others(everything, 3, self.options.mosaic if composed else 0.0)
            donors = self._others(self._with_objects, 1, self.options.copy_paste if composed else 0.0)
            image, target = self.augment(*self._read(index), partners=partners, donor=donors[0] if donors else None)
        bgr = image.as_subclass(Tensor).flip(0).permute(1, 2, 0).contiguous()
        return bgr, {"boxes": target["boxes"].as_subclass(Tensor), "labels": target["labels"]}

    def _others(self, indices: Sequence[int], count: int, probability: float) -> list[Labeled]:
        """Return random images out of some, with a probability; else none, also if there are none."""
        # No number is drawn if it decides nothing, so that the samples of earlier runs stay the same.
        if not indices or not probability or float(torch.rand(())) >= probability:
            return []
        return [self._read(indices[int(position)]) for position in torch.randint(len(indices), (count,))]

    def _read(self, index: int) -> Labeled:
        labeled = self.data.images[index]
        rgb = torch.from_numpy(labeled.read(self.bit_depth)[:, :, ::-1].transpose(2, 0, 1).copy())
        boxes = tv_tensors.BoundingBoxes(torch.from_numpy(labeled.boxes), format="XYXY", canvas_size=labeled.size)
        return tv_tensors.Image(rgb), {"boxes": boxes, "labels": torch.from_numpy(labeled.labels)}


class EpochSampler(Sampler[list[Item]]):
    """The batches of one epoch for one of several processes, as lists of items for ``AugmentedDataset``.

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
        >>> [[index for index, _seed, _composed in batch] for batch in sampler]
        [[2, 4], [3, 0]]
    """

    def __init__(self, num_images: int, samples: int, *, batch: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.num_images, self.batch, self.seed, self.rank, self.world = num_images, batch, seed, rank, world
        self.batches = max(1, samples // (batch * world))
        self.epoch = 0
        self.start = 0
        self.composed_steps = math.inf

    def set_position(self, epoch: int, batch: int, total_steps: float = math.inf) -> None:
        """Choose what to iterate over.

        Args:
            epoch: index of the epoch.
            batch: index of its first batch.
            total_steps: number of steps of the run; none of the last ones has a sample of several images.
        """
        self.epoch, self.start = epoch, batch
        self.expect(total_steps)

    def expect(self, total_steps: float) -> None:
        """Set the number of steps of the run, also during an iteration."""
        self.composed_steps = (1 - NATURAL_SHARE) * total_steps

    def __len__(self) -> int:
        return self.batches - self.start

    def __iter__(self) -> Iterator[list[Item]]:
        generator = np.random.default_rng([self.seed, self.epoch])
        total = self.batches * self.batch * self.world
        rounds = -(-total // self.num_images)
        order = np.concatenate([generator.permutation(self.num_images) for _ in range(rounds)])[:total]
        seeds = generator.integers(2**63, size=total)
        for number in range(self.start, self.batches):
            first = (number * self.world + self.rank) * self.batch
            rows = slice(first, first + self.batch)
            composed = self.epoch * self.batches + number < self.composed_steps
            pairs = zip(order[rows].tolist(), seeds[rows].tolist(), strict=True)
            yield [(index, item_seed, composed) for index, item_seed in pairs]


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
        batch = _collate([data[index % len(data), index, True] for index in range(count)])
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
