"""Build an engine and its passport from a deployable ONNX."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from engines.core.atomic_file import atomic_file
from engines.core.errors import BuildError
from engines.tensorrt.api import TensorRT
from engines.tensorrt.build_monitor import Progress, cancelled_by_interrupt, make_monitor
from engines.tensorrt.build_options import CURRENT, PORTABLE, BuildOptions, runs_on_sm
from engines.tensorrt.build_request import BuildRequest
from engines.tensorrt.error_log import error_log
from engines.tensorrt.hardware import DLA_SUPPORT
from engines.tensorrt.layer_precision import (
    LayerCounts,
    check_inspected,
    check_precision,
    convolution_layers,
    convolutions,
    inspected_precision,
    network_precision,
)
from engines.tensorrt.passport import (
    INSIDE,
    INSPECTED,
    PARSED,
    SEPARATE,
    Passport,
    cache_path,
    next_passport_path,
    passport_path,
)
from engines.tensorrt.plugin_definitions import register

if TYPE_CHECKING:
    import tensorrt

MIB = 1 << 20
# Takes the path of a plan and its passport, and returns the record for the passport.
Check = Callable[[Path, Passport], Mapping[str, Any]]


@dataclass(frozen=True)
class BuildReport:
    """The result of a build.

    Attributes:
        engine: path of the engine file.
        passport: passport of the engine.
        built: True if the engine was built; False if an engine of the same inputs and options existed already.
    """

    engine: Path
    passport: Passport
    built: bool


def build_engine(
    deployable: Path | str | bytes,
    engine: Path | str,
    options: BuildOptions | None = None,
    *,
    request: BuildRequest | None = None,
    progress: Progress | None = None,
    verified: Mapping[str, Any] | None = None,
    check: Check | None = None,
    force: bool = False,
) -> BuildReport:
    """Build an engine, check its precision, and write it and its passport, unless an equal engine exists already.

    Args:
        deployable: path or content of an ONNX of retina-edge export, in the requested precision.
        engine: path of the engine file. An existing engine is overwritten at the very end, or not at all.
        options: options of the build; None for the defaults.
        request: request that replaces ``options``, for a caller that made the ONNX itself.
        progress: callback for the fraction that is done, 0 to 1, and TensorRT's name for the current step.
        verified: comparisons that the caller has made, for the passport.
        check: callback that runs the engine from the path of its plan, given its passport, and returns the record for
            the passport. If it raises an error, nothing is written.
        force: True to build even if an engine of an equal request exists.

    Raises:
        BuildError: if the ONNX does not fit the options, TensorRT refuses it, or the precision is not as requested.
        ModelFileError: if the ONNX is not a deployable ONNX of retina-edge export.
        MissingDependencyError, DeviceError: if no installed backend can build.
        OSError: if the engine cannot be written.
        KeyboardInterrupt: after Ctrl-C; no file is written.
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
    # Open the file before the build, which takes minutes, so that an unwritable folder is reported at once.
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
            raise BuildError(f"{backend.name} cannot build the engine; its error log says: {messages.since(mark)}")
        content = bytes(memoryview(plan))
        precision_found, precision_source = _precision_found(request, network, content)
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
            precision_found=precision_found,
            precision_source=precision_source,
            convolutions=precisions,
            postprocess=prepared.postprocess,
            inputs=_tensors(network.get_input, network.num_inputs),
            outputs=_tensors(network.get_output, network.num_outputs),
            batch=_batches(options),
            quantization=prepared.quantization,
            verified=verified,
            build_seconds=round(seconds, 3),
            accuracy=prepared.accuracy,
            lean_runtime=_lean_runtime(options),
            built_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        del parser  # only now, because the parser owns the weights that the network points to
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # now a full disk shows, before the passport is written
        if check is not None:
            passport = dataclasses.replace(passport, checked=check(Path(file.name), passport))
        with atomic_file(next_passport_path(engine)) as next_passport:
            next_passport.write(passport.to_json().encode())
    # If the process is killed before the next line, ``read_engine`` gives the passport its name.
    os.replace(next_passport_path(engine), passport_path(engine))
    cache_path(engine).unlink(missing_ok=True)  # the cache belongs to the replaced engine
    return BuildReport(engine, passport, built=True)


def _parse(
    trt: TensorRT, builder: tensorrt.Builder, model: bytes
) -> tuple[tensorrt.INetworkDefinition, tensorrt.OnnxParser]:
    # In TensorRT 11 every network is strongly typed, so a later version may drop the flag.
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
    """Set the options of the build. An option that cannot be set is an error and never ignored."""
    options, trt = request.options, request.backend.module
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace * MIB)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.without_runtime:
        config.set_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.dla is not None:
        _use_dla(trt, config, builder, network, options.dla)
    if options.timing_cache is not None:
        path = Path(options.timing_cache)
        cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            raise BuildError(
                f"timing_cache: {path}: expected a cache of this GPU and TensorRT, got another or a damaged one; "
                "delete it"
            )
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
    """Run the network, including every convolution, on a core of the deep-learning accelerator.

    Casts from uint8, resizes and the post-processing stay on the GPU. The convolutions are checked here, because
    TensorRT only logs a layer that it runs on the GPU instead.
    """
    if not builder.num_DLA_cores:
        raise BuildError(
            f"dla: expected an accelerator that TensorRT {trt.__version__} can use, got a device without one; "
            f"{DLA_SUPPORT}; build without dla"
        )
    if core >= builder.num_DLA_cores:
        raise BuildError(f"dla: expected a core below {builder.num_DLA_cores}, this device's core count, got {core}")
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    layers = convolution_layers(network)
    if unable := [layer.name for layer in layers if not config.can_run_on_DLA(layer)]:
        raise BuildError(
            f"dla: expected every convolution to run on the accelerator, got {len(unable)} of {len(layers)} that would "
            f"run on the GPU, first {unable[0]}; build without dla, or change the precision between fp16 and int8"
        )


def _precision_found(
    request: BuildRequest, network: tensorrt.INetworkDefinition, plan: bytes
) -> tuple[LayerCounts, str]:
    """Read the precision from the engine if this machine can load it, else from the parsed network.

    Returns:
        The number of layers by kind and precision, and its source: ``INSPECTED`` or ``PARSED``.
    """
    if not request.machine.gpu or (request.backend.is_rtx and not runs_on_sm(_targets(request), request.machine.sm)):
        return network_precision(network), PARSED
    trt, messages = request.backend.module, error_log(request.backend.module)
    mark = messages.count
    runtime = trt.Runtime(messages.logger)
    if _lean_runtime(request.options) == INSIDE:  # it contains host code, which this process has just built
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise BuildError(
            "this machine cannot load the engine that was built, so no engine was written; TensorRT's error log "
            f"says: {messages.since(mark)}"
        )
    inspector = engine.create_engine_inspector()
    if inspector is None:  # a lean runtime, also one inside the engine, may have none
        return network_precision(network), PARSED
    counts = inspected_precision(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    if not check_inspected(request.options.precision, counts):
        return network_precision(network), PARSED
    return counts, INSPECTED


def _save_timing_cache(config: tensorrt.IBuilderConfig, path: Path | str) -> None:
    with atomic_file(path) as file:
        file.write(bytes(memoryview(config.get_timing_cache().serialize())))


def _targets(request: BuildRequest) -> tuple[str, ...]:
    return tuple(f"sm{request.machine.sm}" if target == CURRENT else target for target in request.options.targets)


def _lean_runtime(options: BuildOptions) -> str | None:
    if not options.version_compatible:
        return None
    return SEPARATE if options.without_runtime else INSIDE


def _batches(options: BuildOptions) -> tuple[int, int, int]:
    """Return the smallest batch size, the size that the engine is tuned for, and the largest batch size."""
    if options.max_batch is None:
        return (options.batch,) * 3
    return (1, options.batch, options.max_batch)


def _tensors(get: Callable[[int], tensorrt.ITensor], count: int) -> tuple[dict[str, Any], ...]:
    tensors = [get(index) for index in range(count)]
    return tuple(
        {"name": tensor.name, "type": tensor.dtype.name.lower(), "shape": list(tensor.shape)} for tensor in tensors
    )
