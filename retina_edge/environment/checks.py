"""What is installed and what works here, and how to get the rest; ``retina-edge doctor`` shows it."""

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

from engines.core.processor import cpu_model
from retina_edge import __version__
from retina_edge.environment.conditions import tool_output
from retina_edge.environment.platforms import CUDA_PATHS

OK, MISSING, BROKEN = "ok", "missing", "broken"
NVIDIA_SMI = ("nvidia-smi", "--query-gpu=name,compute_cap,memory.total,driver_version", "--format=csv,noheader")
RUNS = 3
_LINES_OF_OPENCV = ("GUI", "FFMPEG", "GStreamer")


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        name: what it is.
        state: ``ok``, ``missing`` or ``broken``.
        found: version, model or reason.
        purpose: what it is for.
        fix: the command that installs it, or what else to do; empty when ok.
    """

    name: str
    state: str
    found: str
    purpose: str
    fix: str = ""


@dataclass(frozen=True)
class Package:
    """An importable package and what it is for.

    Attributes:
        name: as pip knows it.
        module: what to import.
        purpose: what it is for.
        fix: the command that installs it.
        attribute: proof that it is the real thing; type stubs and left-over folders import as well.
        details: more to say of the imported module.
        broken_fix: what to do where it is there and does not load; empty for ``fix``.
    """

    name: str
    module: str
    purpose: str
    fix: str
    attribute: str
    details: Callable[[ModuleType], str] = lambda _module: ""
    broken_fix: str = ""


def check_packages() -> list[Check]:
    """One check for each package that some part of retina_edge uses."""
    python = Check("python", OK, platform.python_version(), "everything")
    own = Check("retina-edge", OK, __version__, "everything")
    return [python, own, *(_check_package(package) for package in _packages()), check_gstreamer()]


def check_gstreamer() -> Check:
    """Whether a pipeline can be run: by OpenCV itself, or by gst-launch-1.0, and which of them it would be."""
    name, purpose = "GStreamer", "pipelines (gst:...), a Jetson's cameras (csi://0)"
    fix = (
        "sudo apt-get install gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good "
        "gstreamer1.0-plugins-bad, or an OpenCV built with GStreamer"
    )
    try:
        import cv2

        if re.search(r"^\s*GStreamer:\s*YES", cv2.getBuildInformation(), re.MULTILINE):
            return Check(name, OK, "through OpenCV", purpose)
    except Exception:  # missing, or broken, which its own check says
        pass
    version = tool_output("gst-launch-1.0", "--version").partition("\n")[0]
    if not version:
        return Check(name, MISSING, "neither OpenCV nor gst-launch-1.0 has it", purpose, fix)
    if "Factory Details" not in tool_output("gst-inspect-1.0", "gdppay"):
        return Check(name, BROKEN, f"{version}, without gdppay, which hands the frames over", purpose, fix)
    return Check(name, OK, f"through {version}", purpose)


def check_devices() -> list[Check]:
    """The processor, NVIDIA GPUs, and the Jetson module if it is one."""
    jetson = _jetson()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    checks = [Check("CPU", OK, f"{cpu_model()}, {cores} of {os.cpu_count()} cores usable", "detection anywhere")]
    gpus = _nvidia_smi() or _torch_gpus()
    checks += [Check("NVIDIA GPU", OK, gpu, "TensorRT engines, training") for gpu in gpus]
    if jetson:
        checks.append(Check("Jetson", OK, jetson, "TensorRT engines"))
    elif not gpus:
        checks.append(
            Check(
                "NVIDIA GPU",
                MISSING,
                "none seen by nvidia-smi or torch",
                "TensorRT engines, training",
                "detection runs on the CPU; for a GPU that is there, install NVIDIA's driver",
            )
        )
    return checks


def check_detection() -> Check:
    """Runs the shipped model on a piece of the shipped picture."""
    purpose = "detection with ONNX Runtime"
    try:
        # Here, so that the rest of the doctor works where OpenCV or NumPy does not.
        from retina_edge import assets
        from retina_edge.detector import Detector
        from retina_edge.imaging.image_file import read_image
        from retina_edge.sources.flight import WINDOW

        ground = read_image(assets.FOREST)
        frame = ground[: WINDOW[0], : WINDOW[1]]
        with Detector.load(assets.MODEL) as detector:
            found = detector(frame).above(assets.SCORE)
            start = perf_counter()
            for _ in range(RUNS):
                detector(frame)
            milliseconds = 1000 * (perf_counter() - start) / RUNS
    except ImportError as error:
        return Check("shipped model", BROKEN, _one_line(error), purpose, "first fix the packages it needs")
    except Exception as error:  # whatever keeps it from running is the finding
        return Check("shipped model", BROKEN, _one_line(error), purpose, "install retina_edge again from its source")
    return Check("shipped model", OK, f"{len(found)} detections in {milliseconds:.0f} ms", purpose)


def _packages() -> list[Package]:
    base = "pip install retina-edge"
    train = "pip install 'retina-edge[train]'"
    export = "pip install 'retina-edge[export]'"
    engines = (
        "sudo apt-get install nvidia-jetpack" if _jetson() else f"{CUDA_PATHS} && pip install 'retina-edge[tensorrt]'"
    )
    return [
        Package("numpy", "numpy", "everything", base, "ndarray"),
        Package(
            "opencv-python",
            "cv2",
            "pictures, videos, cameras, windows",
            base,
            "imread",
            _opencv_details,
            "on a server without GUI libraries: sudo apt-get install libgl1 libglib2.0-0, or replace it: "
            "pip uninstall opencv-python && pip install opencv-python-headless",
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
        Package("torch", "torch", "train, export, runs model.pt", train, "nn", _torch_details),
        Package("torchvision", "torchvision", "train, export, runs model.pt", train, "models"),
        Package("faster-coco-eval", "faster_coco_eval", "evaluate, AP while training", train, "COCO"),
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
        Package("tensorrt", "tensorrt", "builds and runs engines", engines, "Builder"),
        Package(
            "tensorrt-rtx",
            "tensorrt_rtx",
            "builds engines without a GPU (Linux x86_64)",
            "pip install 'retina-edge[tensorrt-rtx]'",
            "Builder",
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
    except Exception as error:  # a broken installation may raise anything, such as OSError for a library
        return Check(package.name, BROKEN, _one_line(error), package.purpose, package.broken_fix or package.fix)
    if not genuine:
        return Check(package.name, MISSING, "type stubs or left-over files only", package.purpose, package.fix)
    found = _version(package, module)
    return Check(package.name, OK, f"{found} ({details})" if details else found, package.purpose)


def _version(package: Package, module: ModuleType) -> str:
    version = getattr(module, "__version__", None)
    if isinstance(version, str):
        return version
    try:
        return importlib.metadata.version(package.name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown version"


def _opencv_details(module: ModuleType) -> str:
    """Of its build: which windows, and which decoders."""
    information = module.getBuildInformation()
    found = []
    for name in _LINES_OF_OPENCV:
        match = re.search(rf"^\s*{name}:\s*(\S+)", information, re.MULTILINE)
        found.append(f"{name} {match.group(1) if match else 'NO'}")
    return ", ".join(found)


def _torch_details(module: ModuleType) -> str:
    built = f"CUDA {module.version.cuda}" if module.version.cuda else "CPU build"
    return f"{built}, {module.cuda.device_count()} CUDA devices seen"


def _nvidia_smi() -> list[str]:
    """A line a GPU; none where the tool is missing or sees none."""
    return [line.strip() for line in tool_output(*NVIDIA_SMI).splitlines() if line.strip()]


def _torch_gpus() -> list[str]:
    try:
        import torch

        return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    except Exception:  # missing, or broken, which its own check says
        return []


def _jetson() -> str:
    """The module and its L4T release; empty elsewhere."""
    found = []
    for path in (Path("/proc/device-tree/model"), Path("/etc/nv_tegra_release")):
        try:
            text = path.read_text(errors="replace").strip("\0\n ")
        except OSError:
            continue
        if "nv_tegra" in path.name or "NVIDIA" in text:
            found.append(text.splitlines()[0])
    return ", ".join(found)


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
