"""Samples depend on seed, epoch and position only, not on workers or on where a run was interrupted."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from engines.core.errors import SourceError
from retina_edge.data import loading
from retina_edge.data.augment import CropKeepingBoxes, ScaleJitter, Target
from retina_edge.data.augment_options import AugmentOptions
from retina_edge.data.composition import Labeled
from retina_edge.data.dataset import DetectionDataset, LabeledImage
from retina_edge.data.load import load_dataset
from retina_edge.data.loading import AugmentedDataset, Batch, BatchLoader, EpochSampler

OPTIONS = AugmentOptions((128, 160), (416, 736))
# Everything that is off by default, so that half of the samples are composed.
COMPOSED = AugmentOptions(
    (128, 160), (416, 736), (0.1, 2.0), "dihedral", photometric="strong", mosaic=0.5, copy_paste=0.5
)


@pytest.fixture
def data(tiny_coco: Path, treecrowns: Path) -> DetectionDataset:
    return load_dataset(tiny_coco, treecrowns / "images")


def test_the_sampler_makes_full_batches_of_all_images() -> None:
    sampler = EpochSampler(10, 10, batch=2, seed=0)
    batches = list(sampler)
    assert len(sampler) == len(batches) == 5
    assert sorted(index for batch in batches for index, _, _ in batch) == list(range(10))
    assert len({seed for batch in batches for _, seed, _ in batch}) == 10


def test_few_images_repeat_and_there_is_at_least_one_batch() -> None:
    assert [len(batch) for batch in EpochSampler(3, 8, batch=4, seed=0)] == [4, 4]
    assert [len(batch) for batch in EpochSampler(3, 3, batch=8, seed=0)] == [8]


def test_epochs_differ_and_are_reproducible() -> None:
    sampler = EpochSampler(10, 10, batch=2, seed=0)
    first = list(sampler)
    sampler.set_position(1, 0)
    assert list(sampler) != first
    sampler.set_position(0, 0)
    assert list(sampler) == first
    sampler.set_position(0, 3)
    assert list(sampler) == first[3:]
    assert len(sampler) == 2


def test_two_processes_together_make_the_batches_of_one_process() -> None:
    whole = [item for batch in EpochSampler(12, 12, batch=4, seed=1) for item in batch]
    parts = [list(EpochSampler(12, 12, batch=2, seed=1, rank=rank, world=2)) for rank in range(2)]
    together = [item for step in zip(*parts, strict=True) for batch in step for item in batch]
    assert together == whole


def same(one: Batch, other: Batch) -> bool:
    """True if two batches are equal, bit for bit."""
    pairs = zip(one[1], other[1], strict=True)
    return torch.equal(one[0], other[0]) and all(
        torch.equal(target[name], expected[name]) for target, expected in pairs for name in ("boxes", "labels")
    )


@pytest.mark.parametrize("options", [OPTIONS, COMPOSED])
def test_samples_do_not_depend_on_workers(data: DetectionDataset, options: AugmentOptions) -> None:
    runs = []
    for workers in (0, 1, 2):
        sampler = EpochSampler(len(data), 8, batch=2, seed=4)
        torch.manual_seed(workers)  # nor on the global generator
        runs.append(list(BatchLoader(AugmentedDataset(data, options), sampler, workers=workers)))
    assert [len(run) for run in runs] == [4, 4, 4]
    for batch, *others in zip(*runs, strict=True):
        assert batch[0].shape == (2, 128, 160, 3)
        assert batch[0].dtype == torch.uint8
        assert all(same(batch, other) for other in others)


@pytest.mark.parametrize("options", [OPTIONS, COMPOSED])
def test_an_epoch_that_begins_in_the_middle_has_the_same_samples(
    data: DetectionDataset, options: AugmentOptions
) -> None:
    batches: list[list[Batch]] = []
    for first in (0, 2):
        sampler = EpochSampler(len(data), 8, batch=2, seed=4)
        sampler.set_position(1, first, total_steps=9)  # 85 % of 9 steps are 7.65, so the last batch is natural
        batches.append(list(BatchLoader(AugmentedDataset(data, options), sampler, workers=0)))
    whole, rest = batches
    assert len(rest) == 2
    assert all(same(one, other) for one, other in zip(whole[2:], rest, strict=True))


def test_default_samples_are_those_of_earlier_versions(data: DetectionDataset) -> None:
    """Resize, crop, flip and torchvision's jitter of the colors, in this order, with the seed and nothing else."""
    assert AugmentOptions().scale == (0.7, 1.4)
    earlier = v2.Compose(
        [
            ScaleJitter((416, 736), (0.7, 1.4)),
            lambda image, target: CropKeepingBoxes((128, 160), 0.4)(image, target),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.03),
        ]
    )
    for seed in range(6):
        labeled = data.images[seed % 4]
        torch.manual_seed(seed)
        boxes = tv_tensors.BoundingBoxes(torch.from_numpy(labeled.boxes), format="XYXY", canvas_size=labeled.size)
        rgb = torch.from_numpy(labeled.read()[:, :, ::-1].transpose(2, 0, 1).copy())
        expected, target = earlier(tv_tensors.Image(rgb), {"boxes": boxes, "labels": torch.from_numpy(labeled.labels)})
        image, found = AugmentedDataset(data, OPTIONS).sample(seed % 4, seed)
        assert torch.equal(image, expected.as_subclass(torch.Tensor).flip(0).permute(1, 2, 0))
        assert torch.equal(found["boxes"], target["boxes"].as_subclass(torch.Tensor))


def test_the_last_steps_of_a_run_are_natural() -> None:
    """Of 10 epochs of 4 steps, the last 15 % are 6 steps: two of the ninth epoch, and all of the tenth."""
    sampler = EpochSampler(8, 8, batch=2, seed=0)
    composed = []
    for epoch in range(10):
        sampler.set_position(epoch, 0, total_steps=40)
        composed += [item_composed for batch in sampler for _, _, item_composed in batch]
    assert composed == [True] * (34 * 2) + [False] * (6 * 2)


def test_a_natural_sample_has_no_other_images(data: DetectionDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int | str] = []

    def reading(image: LabeledImage, _bit_depth: int) -> npt.NDArray[np.uint8]:
        read.append(image.id)
        return np.zeros((*image.size, 3), np.uint8)

    monkeypatch.setattr(LabeledImage, "read", reading)
    dataset = AugmentedDataset(data, dataclasses.replace(OPTIONS, mosaic=1.0, copy_paste=1.0))
    dataset.sample(2, 7, composed=False)
    assert read == [data.images[2].id]
    read.clear()
    dataset.sample(2, 7)
    assert len(read) == 5  # the image, three for the mosaic, one to paste from


def test_mosaics_occur_with_their_probability(data: DetectionDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = AugmentedDataset(data, dataclasses.replace(OPTIONS, mosaic=0.3))
    images = [dataset._read(index) for index in range(len(data))]
    partners: list[int] = []

    def augment(image: torch.Tensor, target: Target, **others: Any) -> Labeled:
        partners.extend(
            next(index for index in range(len(images)) if images[index] is partner) for partner in others["partners"]
        )
        return image, target

    monkeypatch.setattr(dataset, "_read", images.__getitem__)
    monkeypatch.setattr(dataset, "augment", augment)
    for seed in range(400):
        dataset.sample(0, seed)
    assert len(partners) / 3 == pytest.approx(120, abs=28)  # 3 standard deviations of 9.2
    # Each image is a partner equally often.
    assert np.bincount(partners) == pytest.approx(len(partners) / 4, abs=27)  # 3 standard deviations of 8.9


def test_a_data_set_of_one_image_can_be_composed_with_itself(data: DetectionDataset) -> None:
    single = dataclasses.replace(data, images=data.images[:1])
    options = dataclasses.replace(COMPOSED, mosaic=1.0, copy_paste=1.0)
    image, target = AugmentedDataset(single, options).sample(0, 3)
    assert image.shape == (128, 160, 3)
    assert len(target["boxes"]) == len(target["labels"]) > 0


def test_a_sample_is_bgr(data: DetectionDataset) -> None:
    options = AugmentOptions((416, 416), (416, 416), (1, 1), "none", photometric="none")
    image, _ = AugmentedDataset(data, options).sample(0, 0)
    # In a forest, the three channels have different means.
    expected = data.images[0].read().mean((0, 1))
    means = image.float().mean((0, 1)).numpy()
    assert means.argsort().tolist() == expected.argsort().tolist()


def test_a_sample_does_not_change_the_global_generator(data: DetectionDataset) -> None:
    torch.manual_seed(9)
    before = torch.get_rng_state()
    AugmentedDataset(data, OPTIONS).sample(0, 5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(os.name == "nt", reason="signals a worker, which Windows starts in another way")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_a_worker_that_is_still_starting_is_ignored(
    data: DetectionDataset, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    init_worker = loading._init_worker

    def interrupted(index: int) -> None:
        os.kill(os.getpid(), number)
        init_worker(index)

    monkeypatch.setattr(loading, "_init_worker", interrupted)
    sampler = EpochSampler(len(data), 2, batch=2, seed=4)
    assert len(list(BatchLoader(AugmentedDataset(data, OPTIONS), sampler, workers=1))) == 1
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()  # in this process, signals arrive as before


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="needs sigwaitinfo, which names the sender of a signal")
def test_a_worker_ends_at_a_sigterm_from_its_parent_only(data: DetectionDataset) -> None:
    """At its exit, a process terminates the workers that an error has left behind, and waits for them."""
    others = multiprocessing.active_children()
    batches = iter(BatchLoader(AugmentedDataset(data, OPTIONS), EpochSampler(4, 40, batch=2, seed=4), workers=1))
    next(batches)
    (worker,) = set(multiprocessing.active_children()).difference(others)
    subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
    for _ in range(5):
        next(batches)
    assert worker.is_alive()
    worker.terminate()
    worker.join(20)
    assert worker.exitcode == 0


def test_the_error_of_a_partner_names_it(data: DetectionDataset, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"not an image")
    broken = dataclasses.replace(data.images[1], path=tmp_path / "broken.jpg")
    two = dataclasses.replace(data, images=(data.images[0], broken))
    for options in (dataclasses.replace(OPTIONS, mosaic=1.0), dataclasses.replace(OPTIONS, copy_paste=1.0)):
        dataset = AugmentedDataset(two, options)
        found = [dataset[0, seed, True] for seed in range(12)]
        errors = [error for error in found if isinstance(error, SourceError)]
        assert errors
        assert all("broken.jpg: expected an image" in str(error) for error in errors)
        assert not any(isinstance(dataset[0, seed, False], SourceError) for seed in range(4))


@pytest.mark.parametrize("workers", [0, 1])
def test_the_error_of_a_bad_image_reaches_the_caller_unchanged(tmp_path: Path, workers: int) -> None:
    (tmp_path / "a.png").write_bytes(b"not an image")
    no_boxes, no_labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    image = LabeledImage(1, tmp_path / "a.png", (8, 8), no_boxes, no_labels, no_boxes, no_labels, np.zeros((0, 5)))
    data = DetectionDataset(tmp_path / "labels.json", ("cat",), (1,), (image,))
    loader = BatchLoader(AugmentedDataset(data, OPTIONS), EpochSampler(1, 1, batch=1, seed=0), workers=workers)
    with pytest.raises(SourceError, match=r"a\.png: expected an image") as caught:
        list(loader)
    assert "Traceback" not in str(caught.value)
