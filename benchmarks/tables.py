"""The tables of the documentation, made from result files."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import accuracy_tables, speed_tables
from benchmarks.table_parts import Record

# Functions that make the table of a result file, by its name without the suffix.
TABLES: dict[str, Callable[[Record], str]] = {
    "end_to_end": speed_tables.end_to_end,
    "detectors": speed_tables.detectors,
    "preprocess": speed_tables.preprocess,
    "postprocess": speed_tables.postprocess,
    "scaling": speed_tables.scaling,
    "detect_loop": speed_tables.detect_loop,
    "load": speed_tables.load,
    "host_time": speed_tables.host_time,
    "endurance": speed_tables.endurance,
    "accuracy": accuracy_tables.accuracy,
    "precisions": accuracy_tables.precisions,
    "calibrators": accuracy_tables.calibrators,
    "recipe": accuracy_tables.recipe,
    "first_hour": accuracy_tables.first_hour,
    "elsewhere": accuracy_tables.elsewhere,
    "end_to_end_gpu": speed_tables.end_to_end_gpu,
    "detectors_gpu": speed_tables.detectors_gpu,
    "preprocess_gpu": speed_tables.preprocess_gpu,
    "postprocess_gpu": speed_tables.postprocess_gpu,
    "scaling_gpu": speed_tables.scaling_gpu,
    "runner_gpu": speed_tables.runner,
    "gpu": speed_tables.goals,
}
