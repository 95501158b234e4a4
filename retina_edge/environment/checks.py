"""Checks of the packages and devices of this machine, with fixes, for ``retina-edge doctor``."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import ModuleType

from engines.core.machine import this_machine
from engines.core.processor import cpu_model, usable_cores
from engines.tensorrt.backend import JETPACK_COMMAND
from engines.tensorrt.hardware import why_no_rtx
from retina_edge import __version__
from retina_edge.environment.conditions import tool_output
from retina_edge.environment.platforms import CUDA_PATHS

OK, MISSING, BROKEN = "ok", "missing", "broken"
NVIDIA_SMI = ("nvidia-smi", "--query-gpu=name,compute_cap,memory.total,driver_version", "--format=csv,noheader")
# Number of runs over which the time of a frame is averaged.
RUNS = 3
# Entries of OpenCV's build information to report.
_OPENCV_FEATURES = ("GUI", "FFMPEG", "GStreamer")


@dataclass(frozen=True)
class Check:
    """The result of checking one package or device.

    Attributes:
        name: name of the package or device.
        state: ``ok``, ``missing`` or ``broken``.
        found: the version or the model, or the reason for another state.
        purpose: what retina_edge uses the package or device for.
        fix: the command that installs the package, or other advice; empty if the state is ``ok``.

    Examples:
        >>> check = Check("pycuda", MISSING, "", "runs engines", fix="pip install pycuda")
        >>> check.state == OK
        False
    """

    name: str
    state: str
    found: str
    purpose: str
    fix: str = ""


@dataclass(frozen=True)
class Package:
    """A package to check.

    Attributes:
        name: name for pip.
        module: name of the module to import.
        purpose: what retina_edge uses the package for.
        fix: the command that installs the package.
        attribute: an attribute that only the real module has; type stubs and leftover folders can be imported, too.
        details: function that describes the imported module further.
        broken_fix: function that returns advice for the error of a package that cannot be imported; None for ``fix``.
    """

    name: str
    module: str
    purpose: str
    fix: str
    attribute: str
    details: Callable[[ModuleType], str] = lambda _module: ""
    broken_fix: Callable[[Exception], str] | None = None


def check_packages() -> list[Check]:
    """Check Python, retina_edge, and each package that some part of retina_edge uses."""
    python = Check("python", OK, platform.python_version(), "everything")
    own = Check("retina-edge", OK, __version__, "everything")
    return [python, own, *(_check_package(package) for package in _packages()), check_gstreamer()]


def check_gstreamer() -> Check:
    """Check if GStreamer pipelines can run, and report if they run through OpenCV or through gst-launch-1.0."""
    name, purpose = "GStreamer", "pipelines (gst:...), a Jetson's cameras (csi://0)"
    fix = (
        "sudo apt-get install gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good "
        "gstreamer1.0-plugins-bad, or an OpenCV built with GStreamer"
    )
    try:
        from retina_edge.sources.gstreamer_source import opencv_has_gstreamer

        if opencv_has_gstreamer():
            return Check(name, OK, "through OpenCV", purpose)
    except Exception:  # missing or broken, as the check of OpenCV reports
        pass
    version = tool_output("gst-launch-1.0", "--version").partition("\n")[0]
    if not version:
        return Check(name, MISSING, "neither OpenCV nor gst-launch-1.0 supports it", purpose, fix)
    if "Factory Details" not in tool_output("gst-inspect-1.0", "gdppay"):
        return Check(name, BROKEN, f"{version}, without the element gdppay that transfers the frames", purpose, fix)
    return Check(name, OK, f"through {version}", purpose)


def check_devices() -> list[Check]:
    """Check the processor, the NVIDIA GPUs, and the Jetson module if there is one."""
    jetson = _jetson()
    checks = [
        Check("CPU", OK, f"{cpu_model()}, {usable_cores()} of {os.cpu_count()} cores usable", "detection on the CPU")
    ]
    gpus = _nvidia_smi() or _torch_gpus()
    checks += [Check("NVIDIA GPU", OK, gpu, "TensorRT engines, training") for gpu in gpus]
    if jetson:
        checks.append(Check("Jetson", OK, jetson, "TensorRT engines"))
    elif not gpus:
        checks.append(
            Check(
                "NVIDIA GPU",
                MISSING,
                "neither nvidia-smi nor torch reports a GPU",
                "TensorRT engines, training",
                "detection runs on the CPU; if the machine has a GPU, install NVIDIA's driver",
            )
        )
    return checks


def check_detection() -> Check:
    """Run the shipped model on a part of the shipped image, and report the time of a frame."""
    purpose = "detection with ONNX Runtime"
    try:
        # Imported here, so that the other checks work without OpenCV or NumPy.
        from retina_edge import assets
        from retina_edge.detector import Detector
        from retina_edge.imaging.image_file import read_image
        from retina_edge.sources.flight import WINDOW

        image = read_image(assets.FOREST)
        frame = image[: WINDOW[0], : WINDOW[1]]
        with Detector.load(assets.MODEL) as detector:
            detections = detector(frame)
            start = perf_counter()
            for _ in range(RUNS):
                detector(frame)
            milliseconds = 1000 * (perf_counter() - start) / RUNS
    except ImportError as error:
        return Check("shipped model", BROKEN, _one_line(error), purpose, "first fix the packages that it needs")
    except Exception as error:  # any failure is the result of this check
        return Check("shipped model", BROKEN, _one_line(error), purpose, "reinstall retina-edge")
    return Check("shipped model", OK, f"{len(detections)} detections in {milliseconds:.0f} ms", purpose)


def _packages() -> list[Package]:
    """Return the packages to check, in the order of the report."""
    base = "pip install retina-edge"
    train = "pip install 'retina-edge[train]'"
    export = "pip install 'retina-edge[export]'"
    serve = "pip install 'retina-edge[serve]'"
    engines = (
        f"{JETPACK_COMMAND}; python3 -m venv --system-site-packages makes an environment that sees it"
        if _jetson()
        else f"{CUDA_PATHS} && pip install 'retina-edge[tensorrt]'"
    )
    lean = (
        "not needed: JetPack has TensorRT, which also runs these engines"
        if _jetson()
        else f"{CUDA_PATHS} && pip install 'retina-edge[lean]'"
    )
    return [
        Package("numpy", "numpy", "everything", base, "ndarray"),
        Package(
            "opencv-python",
            "cv2",
            "images, videos, cameras, windows",
            base,
            "imread",
            _opencv_details,
            _fix_opencv,
        ),
        Package(
            "onnxruntime",
            "onnxruntime",
            "runs model.onnx",
            base,
            "InferenceSession",
            lambda module: ", ".join(
                name.removesuffix("ExecutionProvider") for name in module.get_available_providers()
            ),
        ),
        Package("torch", "torch", "training, export, runs model.pt", train, "nn", _torch_details),
        Package(
            "torchvision",
            "torchvision",
            "training, export, runs model.pt",
            train,
            "models",
            broken_fix=lambda _: (
                "torch and torchvision are of different releases or builds: pip uninstall torch torchvision, then "
                f"{train}, or install both from the same index in one command"
            ),
        ),
        Package("faster-coco-eval", "faster_coco_eval", "evaluate, AP during training", train, "COCO"),
        Package("onnx", "onnx", "export", export, "ModelProto"),
        Package("onnxscript", "onnxscript", "export", export, "script"),
        Package("tensorboard", "tensorboard", "training curves", "pip install tensorboard", "__version__"),
        Package(
            "mlcommons-loadgen", "mlperf_loadgen", "bench --mlperf", "pip install 'retina-edge[bench]'", "StartTest"
        ),
        Package("supervision", "supervision", "Detections.to_supervision", "pip install supervision", "Detections"),
        Package(
            "trackers", "trackers", "tracks objects in streams", "pip install 'retina-edge[track]'", "ByteTrackTracker"
        ),
        Package("fastapi", "fastapi", "serve: page and API", serve, "FastAPI"),
        Package("uvicorn", "uvicorn", "serve: page and API", serve, "Server"),
        Package("websockets", "websockets", "serve: live results on the page", serve, "connect"),
        Package("prometheus-client", "prometheus_client", "serve: metrics", serve, "CollectorRegistry"),
        Package("paho-mqtt", "paho.mqtt.client", "events over MQTT", serve, "Client"),
        Package("tensorrt", "tensorrt", "builds and runs engines", engines, "Builder"),
        Package(
            "tensorrt-lean",
            "tensorrt_lean",
            "runs engines of build --version-compatible, without tensorrt",
            lean,
            "Runtime",
        ),
        Package(
            "tensorrt-rtx",
            "tensorrt_rtx",
            "builds engines without a GPU (Linux x86_64)",
            "pip install 'retina-edge[tensorrt-rtx]'",
            "Builder",
            _rtx_details,
        ),
        Package("pycuda", "pycuda.driver", "runs engines", f"{CUDA_PATHS} && pip install pycuda", "Stream"),
        Package("cuda-bindings", "cuda.bindings.driver", "CUDA graphs", "pip install cuda-bindings", "cuGraphLaunch"),
    ]


def _check_package(package: Package) -> Check:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module(package.module)
            genuine = hasattr(module, package.attribute)
            details = package.details(module) if genuine else ""
    except ModuleNotFoundError:
        return Check(package.name, MISSING, "", package.purpose, package.fix)
    except Exception as error:  # a broken package may raise anything, such as OSError for a missing library
        fix = package.broken_fix(error) if package.broken_fix else package.fix
        return Check(package.name, BROKEN, _one_line(error), package.purpose, fix)
    if not genuine:
        return Check(package.name, MISSING, "only type stubs or leftover files", package.purpose, package.fix)
    version = _version(package, module)
    return Check(package.name, OK, f"{version} ({details})" if details else version, package.purpose)


def _version(package: Package, module: ModuleType) -> str:
    """Return the version of a package, from its module or from its metadata."""
    version = getattr(module, "__version__", None)
    if isinstance(version, str):
        return version
    try:
        return importlib.metadata.version(package.name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown version"


def _fix_opencv(error: Exception) -> str:
    """Return advice for an OpenCV that cannot be imported."""
    if "numpy" in str(error).lower():  # a binary for NumPy 1 under NumPy 2, of the system or of JetPack
        return (
            "this OpenCV was built for another NumPy: pip install opencv-python; or, to keep the OpenCV of the system, "
            "pip install 'numpy<2'"
        )
    return (
        "on a server without GUI libraries: sudo apt-get install libgl1 libglib2.0-0, or replace it: "
        "pip uninstall opencv-python && pip install opencv-python-headless"
    )


def _opencv_details(module: ModuleType) -> str:
    """Describe the build of OpenCV: GUI toolkit, FFMPEG and GStreamer."""
    information = module.getBuildInformation()
    features = []
    for name in _OPENCV_FEATURES:
        match = re.search(rf"^\s*{name}:\s*(\S+)", information, re.MULTILINE)
        features.append(f"{name} {match.group(1) if match else 'NO'}")
    return ", ".join(features)


def _torch_details(module: ModuleType) -> str:
    """Describe the build of torch, and the number of devices."""
    built = f"CUDA {module.version.cuda}" if module.version.cuda else "CPU build"
    return f"{built}, {module.cuda.device_count()} CUDA devices"


def _rtx_details(_module: ModuleType) -> str:
    """Say why TensorRT-RTX does not run on the GPU of this machine; nothing if it does, or if there is no GPU."""
    machine = this_machine()
    return why_no_rtx(machine) if machine.gpu else ""


def _nvidia_smi() -> list[str]:
    """Return a description of each GPU; empty if nvidia-smi is missing or reports no GPU."""
    return [line.strip() for line in tool_output(*NVIDIA_SMI).splitlines() if line.strip()]


def _torch_gpus() -> list[str]:
    """Return the name of each GPU that torch reports."""
    try:
        import torch

        return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    except Exception:  # missing or broken, as the check of torch reports
        return []


def _jetson() -> str:
    """Return the Jetson module and its L4T release; an empty string on other machines."""
    parts = []
    for path in (Path("/proc/device-tree/model"), Path("/etc/nv_tegra_release")):
        try:
            text = path.read_text(errors="replace").strip("\0\n ")
        except OSError:
            continue
        if "nv_tegra" in path.name or "NVIDIA" in text:
            parts.append(text.splitlines()[0])
    return ", ".join(parts)


def _one_line(error: Exception) -> str:
    """Describe an error in one line of at most 300 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
