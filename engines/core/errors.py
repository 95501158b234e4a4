"""The errors a user can meet. Each says what was expected, what came, and how to mend it."""


class RetinaEdgeError(Exception):
    """Base of every error that retina_edge raises on purpose; the command line prints it in one line."""


class ContractError(RetinaEdgeError, ValueError):
    """A contract is damaged, incomplete or contradicts itself."""


class ModelFileError(RetinaEdgeError):
    """A model file is missing, corrupt, or was not made by retina_edge."""


class DataError(RetinaEdgeError, ValueError):
    """An annotation file or an image of a data set cannot be used; names the file and the record."""


class SourceError(RetinaEdgeError):
    """A picture, video, folder or camera cannot be opened or read."""


class SinkError(RetinaEdgeError):
    """Results cannot be written or shown."""


class MissingDependencyError(RetinaEdgeError, ImportError):
    """An optional package is needed; says which extra installs it."""


class DeviceError(RetinaEdgeError, ValueError):
    """The device asked for is not there, or cannot do what was asked."""


class TrainingError(RetinaEdgeError):
    """Training cannot go on, for instance because the loss is not finite."""


class BuildError(RetinaEdgeError, ValueError):
    """An engine cannot be built, or would not be what was asked for."""


class DeploymentError(RetinaEdgeError, ValueError):
    """A model cannot be served where, or as, it was asked for."""
