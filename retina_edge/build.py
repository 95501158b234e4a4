"""``retina-edge build``: build a TensorRT engine and its passport from a checkpoint or an ONNX."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from engines.core.contract import PRECISIONS
from engines.tensorrt.backend import BACKENDS
from engines.tensorrt.build_options import PORTABLE, PORTABLE_GPUS, POSTPROCESS, TARGETS, BuildOptions
from retina_edge.api.building import BuildResult, build
from retina_edge.api.engine_check import NOT_RUN
from retina_edge.cli import running
from retina_edge.cli.accuracy_options import accuracy_options, add_accuracy_options, print_accuracy
from retina_edge.cli.calibration_options import add_calibration_options, calibration_options, print_findings
from retina_edge.cli.verb_parser import VerbParser
from retina_edge.system.console import Console
from retina_edge.system.printable import printable


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb and return its exit code."""
    args = build_parser().parse_args(argv)
    return running.run(lambda: _build(args))


def build_parser() -> VerbParser:
    """Return the parser of the verb."""
    parser = VerbParser(
        "retina-edge build",
        "Build a TensorRT engine in FP32, FP16 or INT8, and write its passport.",
        example="retina-edge build model.pt -o model.engine --precision fp16",
    )
    add = parser.add_argument
    add(
        "model",
        type=Path,
        metavar="MODEL.pt|MODEL.onnx",
        help="checkpoint that train or convert wrote, or ONNX that export wrote",
    )
    add(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="MODEL.engine",
        help="engine file to write; its passport MODEL.engine.json is written beside it",
    )
    add("--force", action="store_true", help="build even if the same engine is already there")
    add(
        "--verify",
        type=Path,
        nargs="+",
        default=(),
        metavar="IMAGES",
        help="images or folders; the network that goes into the engine is compared with FP32 on them, and the engine "
        "with ONNX Runtime (default: parts of the sample image)",
    )
    add(
        "--no-check",
        action="store_false",
        dest="check",
        help="write the engine without running it. Without this option, an engine that this machine can run is "
        "compared with ONNX Runtime and timed, and is not written if its detections differ",
    )
    add(
        "--compare-fp16",
        action="store_true",
        help="with --precision int8, build an FP16 engine, too, and tell how much faster INT8 is (default: an FP16 "
        "engine of the same model beside the output is compared, if there is one)",
    )
    _add_engine_options(parser)
    add_calibration_options(parser)
    add_accuracy_options(parser)
    _add_tensorrt_options(parser)
    return parser


def _add_engine_options(parser: VerbParser) -> None:
    add = parser.add_argument_group("engine").add_argument
    add("--precision", choices=PRECISIONS, default="fp32", help="precision of the network (default: fp32)")
    add("--batch", type=int, default=1, metavar="N", help="images in a batch (default: 1)")
    add(
        "--max-batch",
        type=int,
        metavar="N",
        help="let the engine accept 1 to N images; it is tuned for --batch (default: the engine takes only --batch)",
    )
    add(
        "--backend",
        choices=("auto", *BACKENDS),
        default="auto",
        help="library that builds the engine and runs it; a Jetson needs tensorrt (default: auto, tensorrt if it is "
        "installed and there is a GPU, else tensorrt-rtx)",
    )
    add(
        "--target",
        type=_targets,
        default=(),
        metavar=f"{','.join(TARGETS)}|portable",
        help=f"GPU architectures that tensorrt-rtx builds the engine for; {PORTABLE} stands for "
        f"{PORTABLE_GPUS} (default: this machine's GPU, or {PORTABLE} if there is no GPU)",
    )
    add(
        "--postprocess",
        choices=POSTPROCESS,
        default="auto",
        help="where decode and NMS run: plugin is inside the engine (TensorRT 10.9 or newer, except 10.14), "
        "kernels is after it (default: auto, plugin if possible)",
    )


def _add_tensorrt_options(parser: VerbParser) -> None:
    group = parser.add_argument_group("TensorRT", "All but --workspace and --optimization-level need tensorrt.")
    add = group.add_argument
    add(
        "--workspace",
        type=int,
        metavar="MiB",
        help="most scratch memory of the engine, in MiB (default: TensorRT's own limit)",
    )
    add(
        "--optimization-level",
        type=int,
        metavar="0-5",
        help="effort to find fast kernels; 5 takes longest to build (default: TensorRT's own)",
    )
    add(
        "--timing-cache",
        metavar="FILE",
        help="file that keeps TensorRT's measurements for the next build (default: they are not kept)",
    )
    add(
        "--dla",
        type=int,
        metavar="CORE",
        help="number of the core of a Jetson Orin's deep-learning accelerator that runs the engine; needs TensorRT up "
        "to 10.7, or from 11.4.1 on (default: the GPU runs it)",
    )
    add(
        "--version-compatible",
        action="store_true",
        help="let later versions of TensorRT run the engine, too, and TensorRT's lean runtime, which the engine then "
        "contains",
    )
    add(
        "--without-runtime",
        action="store_true",
        help="with --version-compatible, leave the lean runtime out of the engine, for machines that have this version "
        "of TensorRT or of its lean runtime",
    )
    add("--hardware-compatible", action="store_true", help="let other GPUs run the engine, too: Ampere and later")


def _build(args: argparse.Namespace) -> int:
    options = BuildOptions(
        precision=args.precision,
        batch=args.batch,
        max_batch=args.max_batch,
        backend=args.backend,
        targets=args.target,
        postprocess=args.postprocess,
        workspace=args.workspace,
        timing_cache=args.timing_cache,
        optimization_level=args.optimization_level,
        dla=args.dla,
        version_compatible=args.version_compatible,
        without_runtime=args.without_runtime,
        hardware_compatible=args.hardware_compatible,
    )
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("starting", total=None)

        def progress(step: str, done: float | None, total: float | None) -> None:
            bars.update(task, description=step, completed=done or 0, total=total)

        result = build(
            args.model,
            args.output,
            options,
            calibration=calibration_options(args),
            accuracy=accuracy_options(args),
            verify=args.verify,
            check=args.check,
            compare_fp16=args.compare_fp16,
            force=args.force,
            progress=progress,
        )
    _print(console, result)
    if result.passport.accuracy:
        print_accuracy(console, result.passport.accuracy, args.precision)
    print_findings(result.findings)
    return 0


def _print(console: Console, result: BuildResult) -> None:
    passport = result.passport
    counts = passport.precision_found.get("convolution", {})
    precisions = ", ".join(f"{count} {precision}" for precision, count in sorted(counts.items()))
    gpus = ", ".join(passport.targets) or passport.machine.gpu
    lines = [
        f"{passport.plan_bytes / 1e6:.1f} MB, {passport.precision_asked}, for {gpus}, {passport.backend} "
        f"{passport.backend_version}",
        f"runs on {passport.runs_on}",
        f"runs with {passport.runs_with}",
        f"convolutions: {precisions} (read from the {passport.precision_source}); "
        f"post-processing: {passport.postprocess}",
    ]
    if passport.verified:
        lines.append("network verified: " + ", ".join(f"{name} {value}" for name, value in passport.verified.items()))
    if passport.checked and NOT_RUN in passport.checked:
        lines.append(f"engine not run: {passport.checked[NOT_RUN]}")
    elif passport.checked:
        lines.append("engine checked: " + ", ".join(f"{name} {value}" for name, value in passport.checked.items()))
    lines.append(
        f"built in {passport.build_seconds:.1f} s"
        if result.built
        else "the engine is already there, built from the same model and options; --force builds it again"
    )
    engine, *texts = (escape(printable(text)) for text in (str(result.engine), *lines))
    console.print(f"[bold]{engine}[/bold]  " + "\n".join(texts), highlight=False, soft_wrap=True)


def _targets(text: str) -> tuple[str, ...]:
    return tuple(part.strip().lower() for part in text.split(",") if part.strip())


if __name__ == "__main__":
    raise SystemExit(main())
