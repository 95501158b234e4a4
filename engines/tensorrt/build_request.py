"""The request for an engine, which decides whether an existing engine can be kept."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.core.errors import RetinaEdgeError
from engines.core.machine import Machine, this_machine
from engines.tensorrt.backend import Backend, find_backend
from engines.tensorrt.build_options import CURRENT, BuildOptions
from engines.tensorrt.passport import Passport, read_engine


@dataclass(frozen=True)
class BuildRequest:
    """A build with all choices made. An engine of an equal request need not be built again.

    Attributes:
        options: options of the build, with every choice made.
        backend: backend that builds the engine.
        machine: machine that the engine is built on.
        inputs: digests of the files that the ONNX was made of, by name.
        source: path of the model file as the user gave it.
    """

    options: BuildOptions
    backend: Backend
    machine: Machine
    inputs: Mapping[str, str]
    source: str

    @classmethod
    def of(
        cls,
        options: BuildOptions,
        inputs: Mapping[str, str],
        *,
        source: str,
        backend: Backend | None = None,
        machine: Machine | None = None,
    ) -> BuildRequest:
        """Return a request in which every open choice of the options is made.

        The choices depend on the installed backends and on the GPU of the machine.

        Args:
            options: options as the user gave them.
            inputs, source: attributes of the request.
            backend: backend that builds the engine; None for the backend that the options name.
            machine: machine that the engine is built on; None for this machine.

        Raises:
            MissingDependencyError, DeviceError: if no installed backend can build, or not for this GPU.
            BuildError: if the backend does not support an option.
        """
        machine = machine or this_machine()
        backend = backend or find_backend(options.backend, machine)
        decided = options.for_backend(backend, machine)
        return cls(decided, backend, machine, inputs, source)

    def key(self) -> dict[str, Any]:
        """Return the request as the JSON object that the passport keeps."""
        return {
            "source": self.source,
            "inputs": dict(self.inputs),
            "options": _as_json(self.options),
            "backend": f"{self.backend.name} {self.backend.version}",
            # TensorRT builds for the GPU of the machine. The targets of TensorRT-RTX are among the options.
            "gpu": "" if self.backend.is_rtx and CURRENT not in self.options.targets else self.machine.gpu,
        }

    def current(self, engine: Path | str) -> Passport | None:
        """Return the passport of the existing engine if its request is equal; None if the engine must be built."""
        try:
            passport = read_engine(engine)
        except (RetinaEdgeError, OSError):
            return None
        # An engine that is older than an option was built with the option's default.
        options = {**_as_json(BuildOptions()), **passport.request.get("options", {})}
        # The name of the model file does not matter, only its content.
        wanted = {**self.key(), "source": ""}
        existing = {**passport.request, "source": "", "options": options}
        return passport if wanted == existing else None


def _as_json(options: BuildOptions) -> dict[str, Any]:
    """Return the options as they are after a round trip through JSON."""
    return dict(json.loads(json.dumps(dataclasses.asdict(options))))
