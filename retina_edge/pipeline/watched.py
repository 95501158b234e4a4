"""A pipeline run for somebody at a terminal: with bars and windows."""

from __future__ import annotations

from collections.abc import Callable

from retina_edge.pipeline.pipeline import Pipeline
from retina_edge.pipeline.report import RunProgress
from retina_edge.pipeline.worker import Worker

# Seconds between two looks at how far all streams are.
TICK = 0.05


def run_watched(pipeline: Pipeline, progress: RunProgress, go_on: Callable[[], bool] | None = None) -> bool:
    """Runs it in a thread of its own, because windows and signals want the caller's.

    Args:
        pipeline: not run yet.
        progress: bars of its streams.
        go_on: called now and then; once it gives false, the pipeline is stopped.

    Returns:
        Whether ``go_on`` ended it.

    Raises:
        BaseException: what the pipeline raises.
    """
    failures: list[BaseException] = []
    worker = Worker("pipeline", pipeline.run, failures.append)
    ended = False
    with progress:
        worker.start()
        try:
            while not worker.wait(TICK):
                progress.update()
                if go_on is not None and not ended and not go_on():
                    ended = True
                    pipeline.stop()
        except BaseException:
            pipeline.stop()
            raise
    if failures:
        raise failures[0]
    return ended
