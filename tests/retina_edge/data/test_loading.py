"""Samples depend on seed, epoch and position only, not on workers or on where a run was interrupted."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from engines.core.errors import SourceError
from retina_edge.data import loading
from retina_edge.data.augment_options import AugmentOptions
from retina_edge.data.dataset import DetectionDataset, LabeledImage
from retina_edge.data.load import load_dataset
from retina_edge.data.loading import AugmentedDataset, BatchLoader, EpochSampler

OPTIONS = AugmentOptions((128, 160), (416, 736))


@pytest.fixture
def data(tiny_coco: Path, treecrowns: Path) -> DetectionDataset:
    return load_dataset(tiny_coco, treecrowns / "images")


def test_the_sampler_makes_full_batches_of_all_images() -> None:
    sampler = EpochSampler(10, 10, batch=2, seed=0)
    batches = list(sampler)
    assert len(sampler) == len(batches) == 5
    assert sorted(index for batch in batches for index, _ in batch) == list(range(10))
    assert len({seed for batch in batches for _, seed in batch}) == 10


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


def test_samples_do_not_depend_on_workers(data: DetectionDataset) -> None:
    runs = []
    for workers in (0, 1):
        sampler = EpochSampler(len(data), 8, batch=2, seed=4)
        torch.manual_seed(workers)  # nor on the global generator
        runs.append(list(BatchLoader(AugmentedDataset(data, OPTIONS), sampler, workers=workers)))
    assert len(runs[0]) == len(runs[1]) == 4
    for (images, targets), (same_images, same_targets) in zip(*runs, strict=True):
        assert images.shape == (2, 128, 160, 3)
        assert images.dtype == torch.uint8
        assert torch.equal(images, same_images)
        for target, same in zip(targets, same_targets, strict=True):
            assert torch.equal(target["boxes"], same["boxes"])
            assert torch.equal(target["labels"], same["labels"])


def test_a_sample_is_bgr(data: DetectionDataset) -> None:
    options = AugmentOptions((416, 416), (416, 416), (1, 1), "none", photometric=False)
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
