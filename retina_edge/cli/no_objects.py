"""The reason why a model found nothing, for the reports of ``detect`` and ``evaluate``."""

from __future__ import annotations

import math

# A model that never scores higher has not learned the objects. The default threshold of a model is half of this.
UNLEARNED_SCORE = 0.1


def why_no_objects(best_score: float, *, score: float, model_threshold: float) -> str:
    """Return why no box scored more than a threshold, and what to do.

    Args:
        best_score: best score of all detections of the model; 0 if there were none.
        score: the score that boxes had to exceed; at least ``model_threshold``.
        model_threshold: the score that every detection of the model exceeds.

    Examples:
        >>> why_no_objects(0.123, score=0.4, model_threshold=0.05)
        'the best score was 0.123, the threshold is 0.4; lower it with --score, or train the model longer'
        >>> why_no_objects(0.0, score=0.6, model_threshold=0.6).partition("; ")[0]
        "no box scored more than 0.6, the model's own threshold"
        >>> why_no_objects(0.0, score=0.4, model_threshold=0.05).partition(". ")[0]
        "no box scored more than 0.05, the model's own threshold"
    """
    if best_score:
        shown = min(round(best_score, 3), math.ceil(1000 * score - 1) / 1000)  # not rounded up to the threshold
        seen, advice = f"the best score was {shown:g}, the threshold is {score:g}", "lower it with --score"
    else:
        seen = f"no box scored more than {model_threshold:g}, the model's own threshold"
        advice = "export it with a lower --score-threshold"
    if max(best_score, model_threshold) > UNLEARNED_SCORE:
        return f"{seen}; {advice}, or train the model longer"
    return (
        f"{seen}. If there are objects to find, this model has not learned them: train it longer, or on images that "
        "are more like these"
    )
