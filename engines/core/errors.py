"""The errors that users see. Each message says what was expected, what came instead, and how to fix it."""

from __future__ import annotations

import re

# Characters that no terminal, log or JSON should get from a file: control characters, separators of lines and
# paragraphs, and lone halves of surrogate pairs.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class RetinaEdgeError(Exception):
    """Base of every error that retina_edge raises on purpose. The command line prints its message in one line.

    Examples:
        >>> from retina_edge import Detector
        >>> try:
        ...     Detector.load("tree.onnx")
        ... except RetinaEdgeError as error:
        ...     print(error)
        tree.onnx: expected an ONNX file, found none; make it with retina-edge export
    """


class ContractError(RetinaEdgeError, ValueError):
    """A contract is damaged or contradicts itself, or an option is out of range or contradicts another option."""


class ModelFileError(RetinaEdgeError):
    """A model file is missing or damaged, or was not made by retina_edge."""


class DataError(RetinaEdgeError, ValueError):
    """An annotation file or an image of a data set cannot be used. The message names the file and the record."""


class SourceError(RetinaEdgeError):
    """An image, video, folder or camera cannot be opened or read."""


class SinkError(RetinaEdgeError):
    """Results cannot be written or shown."""


class MissingDependencyError(RetinaEdgeError, ImportError):
    """An optional package is not installed. The message says how to install it."""


class DeviceError(RetinaEdgeError, ValueError):
    """The requested device does not exist, or cannot run the model."""


class TrainingError(RetinaEdgeError):
    """Training cannot continue, for instance because the loss is not finite."""


class BuildError(RetinaEdgeError, ValueError):
    """An engine cannot be built, or the result would differ from the request."""


class DeploymentError(RetinaEdgeError, ValueError):
    """A model cannot be served by the requested server, or in the requested form."""


def reason_of(error: BaseException, *, without: str = "") -> str:
    """Return the first line of a library's message, at most 200 characters, without control characters.

    Args:
        error: exception of the library.
        without: part of the message to leave out.

    Examples:
        >>> reason_of(ValueError("\\033[1mno model\\033[0m, only text\\nTraceback ..."))
        'ValueError [1mno model [0m, only text'
    """
    line = str(error).replace(without, "").strip().partition("\n")[0]
    return f"{type(error).__name__} {CONTROL.sub(' ', line).strip()[:200]}"
