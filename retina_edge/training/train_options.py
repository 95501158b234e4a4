"""The options of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from engines.core.errors import ContractError
from engines.core.option_checks import check_choice, check_integer, check_number, check_text

SCHEDULES = ("multistep", "cosine", "constant")
OPTIMIZERS = ("sgd", "adamw")
AMP_MODES = ("auto", "bf16", "fp16", "off")
ASSIGNERS = ("iou", "atss", "free-anchor")
CLASS_LOSSES = ("focal", "quality-focal")
# Bounds far above every run, because a resumed run takes its options from a file.
MOST = {
    "epochs": 10**6,
    "epoch_samples": 10**8,
    "batch": 2**16,
    "warmup_steps": 10**9,
    "workers": 1024,
    "seed": 2**63 - 1,
    "eval_every": 10**6,
    "patience": 10**6,
    "minutes": 10**7,
}


@dataclass(frozen=True)
class TrainOptions:
    """The options of a training run.

    The defaults follow the paper, apart from ``clip_norm``. Its learning rate of 0.01 for batches of 16 images becomes
    0.005 for batches of 8.

    Attributes:
        epochs: number of passes over the data set, or over ``epoch_samples`` samples.
        epoch_samples: number of samples in an epoch, over all processes; 0 for each image once.
        batch: number of samples in a step of each process.
        optimizer: ``sgd`` (momentum 0.9) or ``adamw``.
        learning_rate: learning rate after the warm-up. It is not scaled with the batch or the number of processes.
        weight_decay: weight decay of the convolutions; biases and normalization have none.
        warmup_steps: number of steps in which the rate rises linearly, from a hundredth of ``learning_rate``.
        schedule: learning-rate schedule: ``multistep``, ``cosine`` (to zero) or ``constant``.
        amp: precision of the forward pass: ``bf16``, ``fp16`` or ``off``. ``auto`` is bf16 if the device supports it,
            else fp16 on a GPU and float32 on a CPU.
        qat: True for quantization-aware training; see ``fake_quantization``.
        ema: decay of the average of the weights that is evaluated and shipped; 0 for no average.
        clip_norm: upper bound of the gradient norm; 0 for no bound.
        workers: number of processes that load images; 0 loads in the training process.
        seed: seed of initialization, order and augmentation.
        eval_every: number of epochs between evaluations; the last epoch is always evaluated.
        patience: number of evaluations without a gain of AP after which the run ends; 0 for no such end.
        teacher, teacher_sha256: name and SHA-256 of the file that the run distills, set by ``train``; empty without
            one.
        distill_weight: factor of the losses towards the teacher.
        minutes: time of the run with its evaluations, minutes. The run then ends by its time, and the learning rate
            follows the time, so no two such runs are equal. 0 for a run of ``epochs``.
        assigner: which anchors learn an object: ``iou`` those that overlap it by 0.5 or more, as in the paper; ``atss``
            those near its center that overlap it more than most (Zhang et al., arXiv 1912.02424); ``free-anchor`` those
            that detect it best so far (Zhang et al., arXiv 1909.02466).
        class_loss: loss of the scores: ``focal``, as in the paper, or ``quality-focal``, by which a score learns the
            IoU of its box (Li et al., arXiv 2006.04388). ``free-anchor`` has its own, and allows only ``focal``.

    Raises:
        ContractError: if an option is out of range, or two contradict each other.

    Examples:
        >>> TrainOptions(epochs=0)
        Traceback (most recent call last):
        engines.core.errors.ContractError: epochs: expected 1 to 1000000, got 0
    """

    epochs: int = 12
    epoch_samples: int = 0
    batch: int = 8
    optimizer: str = "sgd"
    learning_rate: float = 0.005
    weight_decay: float = 1e-4
    warmup_steps: int = 500
    schedule: str = "multistep"
    amp: str = "auto"
    qat: bool = False
    ema: float = 0.0
    clip_norm: float = 10.0
    workers: int = 2
    seed: int = 0
    eval_every: int = 1
    patience: int = 0
    minutes: float = 0.0
    assigner: str = "iou"
    class_loss: str = "focal"
    teacher: str = ""
    teacher_sha256: str = ""
    distill_weight: float = 1.0

    def __post_init__(self) -> None:
        for name, allowed in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("amp", AMP_MODES)):
            check_choice(name, getattr(self, name), allowed)
        for name in ("epochs", "batch", "eval_every"):
            check_integer(name, getattr(self, name), 1, MOST[name])
        for name in ("epoch_samples", "warmup_steps", "workers", "seed", "patience"):
            check_integer(name, getattr(self, name), 0, MOST[name])
        for name in ("weight_decay", "clip_norm"):
            check_number(name, getattr(self, name), "0 or more", lambda value: 0 <= value < math.inf)
        most = MOST["minutes"]
        check_number("minutes", self.minutes, f"0 to {most}", lambda value: 0 <= value <= most)
        for name in ("teacher", "teacher_sha256"):
            check_text(name, getattr(self, name))
        check_number("distill_weight", self.distill_weight, "more than 0", lambda weight: 0 < weight < math.inf)
        check_number("learning_rate", self.learning_rate, "more than 0", lambda rate: 0 < rate < math.inf)
        check_number("ema", self.ema, "0 <= decay < 1", lambda decay: 0 <= decay < 1)
        check_choice("assigner", self.assigner, ASSIGNERS)
        check_choice("class_loss", self.class_loss, CLASS_LOSSES)
        if self.assigner == "free-anchor" and self.class_loss != "focal":
            raise ContractError(
                f"class_loss: expected focal with the assigner free-anchor, whose loss joins classes and boxes, got "
                f"{self.class_loss}; choose the assigner iou or atss, or leave class_loss out"
            )


# For a trained model, a small, decaying learning rate is enough (Krishnamoorthi, arXiv 1806.08342, section 4).
# Mixed precision is off, because bfloat16 has 8 significant bits and would round the 256 steps of INT8 once more.
QAT_OPTIONS = TrainOptions(
    epochs=3, optimizer="adamw", learning_rate=5e-5, warmup_steps=20, schedule="cosine", amp="off", qat=True, ema=0.99
)
