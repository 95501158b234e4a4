"""The errors that users see. Each message says what was expected, what came instead, and how to fix it."""


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
