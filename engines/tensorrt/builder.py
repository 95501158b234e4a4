"""From a deployable ONNX to a TensorRT engine and its passport."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from engines.core.atomic_file import atomic_file
from engines.core.errors import BuildError, RetinaEdgeError
from engines.core.machine import Machine, this_machine
from engines.tensorrt.api import TensorRT
from engines.tensorrt.backend import Backend, find_backend
from engines.tensorrt.build_monitor import Progress, cancelled_by_interrupt, make_monitor
from engines.tensorrt.build_options import CURRENT, PORTABLE, BuildOptions, runs_on_sm
from engines.tensorrt.error_log import error_log
from engines.tensorrt.layer_precision import (
    LayerCounts,
    check_inspected,
    check_precision,
    convolution_layers,
    convolutions,
    inspected_precision,
    network_precision,
)
from engines.tensorrt.passport import INSPECTED, PARSED, Passport, cache_path, passport_path, read_engine
from engines.tensorrt.plugin_definitions import register

if TYPE_CHECKING:
    import tensorrt

MIB = 1 << 20


@dataclass(frozen=True)
class BuildReport:
    """What a build came to.

    Attributes:
        engine: the engine file.
        passport: as it stands beside it.
        built: False where the engine was there already, of the same inputs and options.
    """

    engine: Path
    passport: Passport
    built: bool


@dataclass(frozen=True)
class BuildRequest:
    """What to build where, everything decided: the key by which a build is repeated or not.

    Attributes:
        options: nothing left open.
        backend: what builds.
        machine: for which.
        inputs: whatever the ONNX was made of, as names and digests.
        source: the model file as the user named it.
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
        """Decides what the options left open, by what is installed and which GPU is there.

        Raises:
            MissingDependencyError, DeviceError: no backend that can build.
            BuildError: the backend cannot do what was asked.
        """
        machine = machine or this_machine()
        backend = backend or find_backend(options.backend, machine)
        decided = options.for_backend(backend, has_gpu=bool(machine.gpu))
        return cls(decided, backend, machine, inputs, source)

    def key(self) -> dict[str, Any]:
        """As the passport keeps it; plain JSON."""
        return {
            "source": self.source,
            "inputs": dict(self.inputs),
            "options": json.loads(json.dumps(dataclasses.asdict(self.options))),
            "backend": f"{self.backend.name} {self.backend.version}",
            # An engine of TensorRT is for the GPU it was built on; TensorRT-RTX's targets stand in the options.
            "gpu": "" if self.backend.is_rtx and CURRENT not in self.options.targets else self.machine.gpu,
        }

    def current(self, engine: Path | str) -> Passport | None:
        """The passport of an engine that this request would only build again, None where it has to be built."""
        try:
            passport = read_engine(engine)
        except (RetinaEdgeError, OSError):
            return None
        # The same file under another name is the same model.
        wanted, found = ({**key, "source": ""} for key in (self.key(), passport.request))
        return passport if wanted == found else None


def build_engine(
    deployable: Path | str | bytes,
    engine: Path | str,
    options: BuildOptions | None = None,
    *,
    request: BuildRequest | None = None,
    progress: Progress | None = None,
    verified: Mapping[str, Any] | None = None,
    force: bool = False,
) -> BuildReport:
    """Builds an engine, checks its precision, and writes it with its passport; or finds it already there.

    Args:
        deployable: an ONNX of retina-edge export, of the precision asked for: its path or its content.
        engine: where to; an existing engine is replaced at the very end, or not at all.
        options: what to build.
        request: the same with everything decided, where the caller has made the ONNX of something else; instead of
            ``options``.
        progress: called with the fraction done and the present step.
        verified: what the caller has compared; goes into the passport.
        force: build even when the same engine is there.

    Raises:
        BuildError: the ONNX does not fit the options, TensorRT refuses it, or its precision is not the one asked for.
        ModelFileError: not a deployable ONNX of ours.
        MissingDependencyError, DeviceError: nothing here can build.
        OSError: the engine cannot be written.
        KeyboardInterrupt: Ctrl-C; nothing is written.
    """
    from engines.tensorrt.engine_network import prepare  # needs onnx

    engine = Path(engine)
    content = deployable if isinstance(deployable, bytes) else Path(deployable).read_bytes()
    onnx_sha256 = hashlib.sha256(content).hexdigest()
    if request is None:
        source = "MODEL.onnx" if isinstance(deployable, bytes) else str(deployable)
        request = BuildRequest.of(options or BuildOptions(), {"onnx": onnx_sha256}, source=source)
    if not force and (passport := request.current(engine)) is not None:
        return BuildReport(engine, passport, built=False)
    options, backend = request.options, request.backend
    prepared = prepare(content, options)
    # Opened before the build: minutes later is too late to learn that the folder cannot be written to.
    with atomic_file(engine) as file, cancelled_by_interrupt() as cancellation:
        trt, messages = backend.module, error_log(backend.module)
        mark = messages.count
        builder = trt.Builder(messages.logger)
        register(trt, prepared.launches)
        network, parser = _parse(trt, builder, prepared.model)
        prepared.check(network)
        precisions = convolutions(network)
        check_precision(options.precision, precisions, prepared.kept)
        config = builder.create_builder_config()
        _configure(config, builder, network, request)
        if progress is not None:
            config.progress_monitor = make_monitor(trt, progress, cancellation)
        start = perf_counter()
        plan = builder.build_serialized_network(network, config)
        seconds = perf_counter() - start
        if cancellation.requested:
            raise KeyboardInterrupt
        if plan is None:
            raise BuildError(f"{backend.name} could not build the engine; it says: {messages.since(mark)}")
        content = bytes(memoryview(plan))
        found, witness = _precision_found(request, network, content)
        if options.timing_cache is not None:
            _save_timing_cache(config, options.timing_cache)
        passport = Passport(
            contract=prepared.contract,
            plan_sha256=hashlib.sha256(content).hexdigest(),
            plan_bytes=len(content),
            onnx_sha256=onnx_sha256,
            request=request.key(),
            backend=backend.name,
            backend_version=backend.version,
            targets=_targets(request),
            machine=request.machine,
            precision_asked=options.precision,
            precision_found=found,
            precision_source=witness,
            convolutions=precisions,
            postprocess=prepared.postprocess,
            inputs=_tensors(network.get_input, network.num_inputs),
            outputs=_tensors(network.get_output, network.num_outputs),
            batch=_batches(options),
            quantization=prepared.quantization,
            verified=verified,
            build_seconds=round(seconds, 3),
            accuracy=prepared.accuracy,
            built_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        del parser  # it owns the weights that the network points to
        file.write(content)
    # After the engine: an interruption between the two leaves a pair that does not fit, which loading refuses.
    cache_path(engine).unlink(missing_ok=True)  # of the engine that was there before
    with atomic_file(passport_path(engine)) as file:
        file.write(passport.to_json().encode())
    return BuildReport(engine, passport, built=True)


def _parse(
    trt: TensorRT, builder: tensorrt.Builder, model: bytes
) -> tuple[tensorrt.INetworkDefinition, tensorrt.OnnxParser]:
    # TensorRT 11 types every network strongly, and may one day drop the flag.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(1 << int(flag) if flag is not None else 0)
    messages = error_log(trt)
    parser, mark = trt.OnnxParser(network, messages.logger), messages.count
    if not parser.parse(model):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        reason = (
            f"{errors[0].node_operator()} {errors[0].node_name()!r}: {errors[0].desc()}"
            if errors
            else messages.since(mark)
        )
        raise BuildError(f"TensorRT's ONNX parser refuses the network: {reason}")
    return network, parser


def _configure(
    config: tensorrt.IBuilderConfig,
    builder: tensorrt.Builder,
    network: tensorrt.INetworkDefinition,
    request: BuildRequest,
) -> None:
    """Every option is set or refused; none is passed over."""
    options, trt = request.options, request.backend.module
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace * MIB)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.dla is not None:
        _use_dla(trt, config, builder, network, options.dla)
    if options.timing_cache is not None:
        path = Path(options.timing_cache)
        cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            raise BuildError(f"timing-cache: {path} is of another GPU or TensorRT, or damaged; delete it")
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if request.backend.is_rtx and options.targets != (PORTABLE,):
        rtx: Any = config
        rtx.num_compute_capabilities = len(options.targets)
        for index, target in enumerate(options.targets):
            rtx.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), index)
    images = network.get_input(0)
    if images.shape[0] == -1:
        profile = builder.create_optimization_profile()
        profile.set_shape(images.name, *((size, *images.shape[1:]) for size in _batches(options)))
        config.add_optimization_profile(profile)


def _use_dla(
    trt: TensorRT,
    config: tensorrt.IBuilderConfig,
    builder: tensorrt.Builder,
    network: tensorrt.INetworkDefinition,
    core: int,
) -> None:
    """Casts from uint8, resizes and the post-processing are not for the accelerator; every convolution has to be.

    TensorRT would put what it cannot run there on the GPU and only log it.
    """
    if core >= builder.num_DLA_cores:
        raise BuildError(f"dla: expected a core below {builder.num_DLA_cores}, which this device has, got {core}")
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    layers = convolution_layers(network)
    if unable := [layer.name for layer in layers if not config.can_run_on_DLA(layer)]:
        raise BuildError(
            f"dla: {len(unable)} of {len(layers)} convolutions cannot run there, the first of them {unable[0]}, and "
            "would go to the GPU; build without --dla, or in the other of fp16 and int8"
        )


def _precision_found(
    request: BuildRequest, network: tensorrt.INetworkDefinition, plan: bytes
) -> tuple[LayerCounts, str]:
    """Asked of the engine where this machine can load it, else of the parsed network."""
    if not request.machine.gpu or (request.backend.is_rtx and not runs_on_sm(_targets(request), request.machine.sm)):
        return network_precision(network), PARSED
    trt, messages = request.backend.module, error_log(request.backend.module)
    mark = messages.count
    engine = trt.Runtime(messages.logger).deserialize_cuda_engine(plan)
    if engine is None:
        raise BuildError(
            f"the engine that was built does not load here, and was not written; TensorRT says: {messages.since(mark)}"
        )
    information = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    found = inspected_precision(information)
    if not check_inspected(request.options.precision, found):
        return network_precision(network), PARSED
    return found, INSPECTED


def _save_timing_cache(config: tensorrt.IBuilderConfig, path: str) -> None:
    with atomic_file(path) as file:
        file.write(bytes(memoryview(config.get_timing_cache().serialize())))


def _targets(request: BuildRequest) -> tuple[str, ...]:
    return tuple(f"sm{request.machine.sm}" if target == CURRENT else target for target in request.options.targets)


def _batches(options: BuildOptions) -> tuple[int, int, int]:
    """Smallest, best and largest batch."""
    if options.max_batch is None:
        return (options.batch,) * 3
    return (1, options.batch, options.max_batch)


def _tensors(get: Callable[[int], tensorrt.ITensor], count: int) -> tuple[dict[str, Any], ...]:
    tensors = [get(index) for index in range(count)]
    return tuple(
        {"name": tensor.name, "type": tensor.dtype.name.lower(), "shape": list(tensor.shape)} for tensor in tensors
    )
