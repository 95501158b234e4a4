"""The error of a GPU without memory, as advice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from engines.core.errors import TrainingError


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn the error of a GPU without memory into advice.

    Raises:
        TrainingError: if torch finds too little memory within the context.

    Examples:
        >>> with memory_errors():
        ...     pass
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0]
        raise TrainingError(
            f"memory of the GPU: expected room for a step, found too little ({reason}); train with a smaller --batch, "
            "--crop or --input, or a smaller --backbone, and close other programs on the GPU"
        ) from error
