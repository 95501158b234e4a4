"""The settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass

SCHEDULES = ("multistep", "cosine", "constant")
OPTIMIZERS = ("sgd", "adamw")
AMP_MODES = ("auto", "bf16", "fp16", "off")


@dataclass(frozen=True)
class TrainOptions:
    """How to train; the defaults are the paper's, its 0.01 for batches of 16 scaled to batches of 8.

    Attributes:
        epochs: passes over the data set, or over ``epoch_samples`` samples.
        epoch_samples: samples an epoch over all processes; 0 takes each image once.
        batch: samples a step in each process.
        optimizer: ``sgd`` (momentum 0.9) or ``adamw``.
        learning_rate: at full height, for the batch as given; it is not scaled behind your back.
        weight_decay: on weights of convolutions; biases and normalization have none.
        warmup_steps: steps in which the rate rises linearly from a hundredth.
        schedule: ``multistep``, ``cosine`` (to zero) or ``constant``.
        amp: precision of the forward pass: ``auto`` takes bf16 where the device computes in it, else fp16 on a GPU.
        qat: whether the model rounds as INT8 does; see ``fake_quantization``.
        ema: decay of the average of weights that is evaluated and shipped; 0 for none.
        clip_norm: bound of the gradient's norm; 0 for none.
        workers: processes that load images; 0 loads in the training process.
        seed: of initialization, order and augmentation.
        eval_every: epochs between evaluations; the last epoch is always evaluated.
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

    def __post_init__(self) -> None:
        for name, allowed in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("amp", AMP_MODES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {getattr(self, name)}")
        for name in ("epochs", "batch", "eval_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("epoch_samples", "weight_decay", "warmup_steps", "clip_norm", "workers", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected 0 or more, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate: expected more than 0, got {self.learning_rate}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema: expected 0 <= decay < 1, got {self.ema}")


# For a model that is trained already. Krishnamoorthi (arXiv 1806.08342, section 4): a small rate, decayed, suffices.
# bfloat16 has 8 bits for a number: it would move what was just rounded to one of 256.
QAT_OPTIONS = TrainOptions(
    epochs=3, optimizer="adamw", learning_rate=5e-5, warmup_steps=20, schedule="cosine", amp="off", qat=True, ema=0.99
)
