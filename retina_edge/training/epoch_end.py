"""The end of an epoch in the main process: evaluate the model, keep the best one, save the state, write the log."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

from engines.core.letterbox import BgrImage
from retina_edge.detections import DEFAULT_SCORE
from retina_edge.evaluation.coco_metrics import Evaluation
from retina_edge.evaluation.error_picture import draw_errors, examples
from retina_edge.model.retinanet import RetinaNet
from retina_edge.system.stop_request import StopRequest
from retina_edge.training.observer import EpochReport
from retina_edge.training.training_log import TrainingLog
from retina_edge.training.validation import Validated, validate

# Number of pictures for TensorBoard, and their longest side, pixels.
PICTURES, PICTURE_SIDE = 4, 512

if TYPE_CHECKING:
    from retina_edge.training.trainer import Trainer


def finish_epoch(
    trainer: Trainer, losses: dict[str, float], rate: float, log: TrainingLog, stop: StopRequest
) -> Evaluation | None:
    """Evaluate the model if an evaluation is due, save checkpoints, and write the log.

    With EMA, the averaged weights are evaluated. At the end of the run, the weights themselves are evaluated, too, and
    the better ones are shipped. Earlier, the rate is high, and the average is better than the weights that it is made
    of (Izmailov et al., arXiv 1803.05407). So the comparison costs one evaluation in a run.

    Args:
        trainer: the run, after the steps of an epoch.
        losses: mean losses of the epoch, and ``images_per_second``.
        rate: learning rate of the next step.
        log: log of the run.
        stop: request to stop, from Ctrl-C or SIGTERM.

    Returns:
        The evaluation; None if none was due.

    Raises:
        KeyboardInterrupt: if a stop was requested in an evaluation.
    """
    epoch = -(-trainer.step // trainer.sampler.batches)
    result = raw = None
    if _evaluation_is_due(trainer, epoch):
        # An evaluation can take long and can fail, so the trained epoch is saved first.
        trainer.save_last()
        begun = time.monotonic()
        result = _validate(trainer, trainer.evaluated_model(), stop)
        trainer.budget.evaluated(time.monotonic() - begun, reserved=trainer.last_evaluations)
        trainer.best.count(result)
        trainer.out_of_patience = 0 < trainer.options.patience <= trainer.best.without_gain
        if trainer.best.take(result):
            trainer.checkpoint().save(trainer.output, half=trainer.half)
        if trainer.ema and trainer.has_ended:
            raw = _validate(trainer, trainer.model, stop)
            if trainer.best.take(raw):
                _save_raw(trainer, raw.evaluation)
    trainer.unfinished = None
    trainer.save_last()
    evaluation, found = (result.evaluation, result.found) if result else (None, None)
    raw_evaluation = raw.evaluation if raw else None
    log.write(epoch, trainer.step, rate, losses, evaluation, raw_evaluation)
    progress = trainer.step / trainer.total_steps
    if result and log.wants_pictures(progress):
        log.add_pictures(_pictures(trainer, result), trainer.step, progress)
    losses = dict(losses)
    speed, objects = losses.pop("images_per_second"), sum(len(image.boxes) for image in trainer.val_data.images)
    epochs = None if trainer.budget else trainer.options.epochs
    steps = trainer.step, trainer.total_steps
    report = EpochReport(epoch, epochs, *steps, losses, speed, evaluation, found, objects, raw_evaluation)
    trainer.observer.on_epoch(report)
    return evaluation


def _evaluation_is_due(trainer: Trainer, epoch: int) -> bool:
    """True if the model is evaluated after an epoch: at the end of the run always, before that if there is time."""
    budget = trainer.budget
    due = epoch % trainer.options.eval_every == 0 and (not budget or budget.has_time_to_evaluate())
    return due or trainer.has_ended


def _validate(trainer: Trainer, model: RetinaNet, stop: StopRequest) -> Validated:
    """Return the results of a model on the validation images."""
    data = trainer.val_data

    def on_image(done: int) -> None:
        trainer.observer.on_evaluated(done, len(data))
        if stop.requested:
            raise KeyboardInterrupt

    # On a CPU one by one, because Ctrl-C waits for the images of a batch.
    batch = 1 if trainer.guard else trainer.options.batch
    return validate(model, trainer.contract, data, batch=batch, device=trainer.group.device, on_image=on_image)


def _pictures(trainer: Trainer, result: Validated) -> dict[str, BgrImage]:
    """Return pictures of the detections in a few validation images, always the same."""
    data, depth = trainer.val_data, trainer.contract.bit_depth
    return {
        f"validation/{number}": draw_errors(
            data.images[index],
            result.detections[index],
            data,
            score=DEFAULT_SCORE,
            side=PICTURE_SIDE,
            bit_depth=depth,
        )
        for number, index in enumerate(examples(data, PICTURES), 1)
    }


def _save_raw(trainer: Trainer, result: Evaluation) -> None:
    """Write the weights without averaging as the best checkpoint; its recipe says so."""
    recipe: dict[str, Any] | None = trainer.recipe
    if recipe is not None:
        reason = f"AP {result.metrics['AP']:.4f} at the end, more than that of the averaged weights"
        choice = {"option": "weights", "value": "not averaged", "reason": reason}
        recipe = {**recipe, "choices": [*recipe["choices"], choice]}
    weights = trainer.model.state_dict()
    dataclasses.replace(trainer.checkpoint(), weights=weights, recipe=recipe).save(trainer.output, half=trainer.half)
