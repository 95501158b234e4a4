"""Batches for training, repeatable to the bit: every sample has a seed of its own.

The seed depends on the epoch and on the sample's place in it, not on the worker that makes it. So a resumed run
sees what the unbroken one would have, in the middle of an epoch too, with any number of workers.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import tv_tensors

from engines.core.errors import RetinaEdgeError
from retina_edge.data.augment import Target, training_transform
from retina_edge.data.augment_options import AugmentOptions
from retina_edge.data.coco import CocoDataset

Sample = tuple[Tensor, Target]
Batch = tuple[Tensor, list[Target]]


class AugmentedDataset(Dataset["Sample | RetinaEdgeError"]):
    """Augmented samples; indexed by (image, seed).

    A sample is the crop, uint8 [H, W, 3] BGR as the contract's input, and its target: ``boxes`` float32 [N, 4]
    xyxy in its pixels and ``labels`` int64 [N].
    """

    def __init__(self, data: CocoDataset, options: AugmentOptions) -> None:
        self.data = data
        self.transform = training_transform(options)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, item: tuple[int, int]) -> Sample | RetinaEdgeError:
        # An exception would leave a worker as a text with its traceback; a value stays what it is.
        try:
            return self.sample(*item)
        except RetinaEdgeError as error:
            return error

    def sample(self, index: int, seed: int) -> Sample:
        """The sample of an image; the same seed gives the same sample.

        Raises:
            SourceError: the image cannot be decoded.
            DataError: it has another size than the annotations say.
        """
        labeled = self.data.images[index]
        rgb = torch.from_numpy(labeled.read()[:, :, ::-1].transpose(2, 0, 1).copy())
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
    """Batches of (image, seed) of one epoch, for one of several processes, from a given batch on.

    Args:
        num_images: images in the data set.
        samples: samples an epoch over all processes; images repeat when there are fewer.
        batch: samples in a batch of one process. Only whole batches are made.
        seed: of the run.
        rank, world: this process and how many there are.
    """

    def __init__(self, num_images: int, samples: int, *, batch: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.num_images, self.batch, self.seed, self.rank, self.world = num_images, batch, seed, rank, world
        self.batches = max(1, samples // (batch * world))
        self.epoch = 0
        self.start = 0

    def set_position(self, epoch: int, batch: int) -> None:
        """The epoch to make, and the first of its batches."""
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
    """Batches of one epoch after another, from worker processes.

    Args:
        dataset: gives the samples.
        sampler: says which; its position is set before each iteration.
        workers: processes; 0 loads in this one.
    """

    def __init__(self, dataset: AugmentedDataset, sampler: EpochSampler, *, workers: int) -> None:
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=_collate,
            worker_init_fn=_quiet_worker,
            pin_memory=torch.cuda.is_available(),
        )

    def __iter__(self) -> Iterator[Batch]:
        """Yields uint8 [N, H, W, 3] and a list of N targets; raises the error of a sample that failed."""
        for batch in self._loader:
            if isinstance(batch, RetinaEdgeError):
                raise batch
            yield batch


def _collate(samples: list[Sample | RetinaEdgeError]) -> Batch | RetinaEdgeError:
    good: list[Sample] = []
    for sample in samples:
        if isinstance(sample, RetinaEdgeError):
            return sample
        good.append(sample)
    images, targets = zip(*good, strict=True)
    return torch.stack(images), list(targets)


def _quiet_worker(_: int) -> None:
    # Ctrl-C, and the SIGTERM of systemd or Slurm, reach every process; the trainer stops in order and then ends
    # its workers.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
