"""``retina-edge build``: a checkpoint or a deployable ONNX becomes a TensorRT engine with its passport."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from engines.backend import BACKENDS
from engines.build_options import POSTPROCESS, TARGETS, BuildOptions
from engines.builder import BuildReport, BuildRequest, build_engine
from engines.contract import PRECISIONS, TENSORRT
from retina_edge import accuracy_arguments, calibration_arguments, cli
from retina_edge.verification_images import read_images


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the verb and gives its exit code."""
    arguments = _parser().parse_args(argv)
    return cli.run(lambda: _build(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="retina-edge build", description="Build a TensorRT engine, FP32, FP16 or INT8, and its passport."
    )
    parser.add_argument("model", type=Path, metavar="MODEL.pt|MODEL.onnx")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="MODEL.engine")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    calibration_arguments.add(parser)
    accuracy_arguments.add(parser)
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="images at a time (default: 1)")
    parser.add_argument("--max-batch", type=int, metavar="N", help="any batch from 1 to N, tuned for --batch")
    parser.add_argument("--backend", choices=("auto", *BACKENDS), default="auto")
    parser.add_argument(
        "--target",
        type=_targets,
        default=(),
        metavar=f"{','.join(TARGETS)}|portable",
        help="GPU architectures an engine of tensorrt-rtx is for; by default this machine's, without one portable "
        "(Ampere and later)",
    )
    parser.add_argument(
        "--postprocess",
        choices=POSTPROCESS,
        default="auto",
        help="decode and NMS in the engine (plugin: TensorRT 10.9 or newer) or by kernels after it; by default in it "
        "where that can be",
    )
    parser.add_argument("--workspace", type=int, metavar="MiB", help="most scratch memory of the engine")
    parser.add_argument("--timing-cache", metavar="FILE", help="keeps TensorRT's measurements for the next build")
    parser.add_argument("--optimization-level", type=int, metavar="0-5")
    parser.add_argument("--dla", type=int, metavar="CORE", help="run on a Jetson's deep-learning accelerator")
    parser.add_argument("--version-compatible", action="store_true", help="runs on later TensorRT too")
    parser.add_argument("--hardware-compatible", action="store_true", help="runs on other GPUs too, Ampere and later")
    parser.add_argument(
        "--verify",
        type=Path,
        nargs="+",
        metavar="IMAGES",
        help="compare the network that goes into the engine with FP32, on these images",
    )
    parser.add_argument("--force", action="store_true", help="build even where the same engine is there")
    return parser


def _build(arguments: argparse.Namespace) -> int:
    from retina_edge.engine_source import EngineSource, precision_of  # needs onnx

    options = BuildOptions(
        precision=arguments.precision,
        batch=arguments.batch,
        max_batch=arguments.max_batch,
        backend=arguments.backend,
        targets=arguments.target,
        postprocess=arguments.postprocess,
        workspace=arguments.workspace,
        timing_cache=arguments.timing_cache,
        optimization_level=arguments.optimization_level,
        dla=arguments.dla,
        version_compatible=arguments.version_compatible,
        hardware_compatible=arguments.hardware_compatible,
    )
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("looking at the calibration images", total=None)

        def tell(doing: str, done: float | None = None, count: float | None = None) -> None:
            bars.update(task, description=doing, completed=done or 0, total=count)

        made_of = precision_of(arguments.model)
        calibration = calibration_arguments.calibration(
            arguments,
            made_of=made_of,
            layout=TENSORRT,
            progress=lambda done, count: tell("calibrating", done, count),
        )
        budget = accuracy_arguments.accuracy_budget(arguments, made_of=made_of, tell=tell)
        images = read_images(arguments.verify) if arguments.verify else ()
        source = EngineSource(arguments.model, options, calibration, images, budget)
        request = BuildRequest.of(options, source.inputs(), source=str(arguments.model))
        passport = None if arguments.force else request.current(arguments.output)
        if passport is not None:
            report = BuildReport(arguments.output, passport, built=False)
        else:
            content, verified = source.deployable(tell)
            report = build_engine(
                content,
                arguments.output,
                request=request,
                progress=lambda done, step: tell(f"{request.backend.name}: {step.lower()}", done, 1.0),
                verified=verified,
                force=True,
            )
    _print(console, report)
    if report.passport.accuracy:
        accuracy_arguments.print_accuracy(console, report.passport.accuracy, arguments.precision)
    if calibration is not None:
        calibration_arguments.print_findings(calibration)
    return 0


def _print(console: Console, report: BuildReport) -> None:
    passport = report.passport
    counts = passport.precision_found.get("convolution", {})
    found = ", ".join(f"{count} {precision}" for precision, count in sorted(counts.items()))
    place = ", ".join(passport.targets) or passport.machine.gpu
    lines = [
        f"[bold]{escape(str(report.engine))}[/bold]  {passport.plan_bytes / 1e6:.1f} MB, {passport.precision_asked}, "
        f"for {escape(place)}, {passport.backend} {passport.backend_version}",
        f"convolutions: {found} (read from the {passport.precision_source}); post-processing: {passport.postprocess}",
    ]
    if passport.verified:
        lines.append("network verified: " + ", ".join(f"{name} {value}" for name, value in passport.verified.items()))
    lines.append(
        f"built in {passport.build_seconds:.1f} s"
        if report.built
        else "already there, of the same model and options; --force builds it again"
    )
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def _targets(text: str) -> tuple[str, ...]:
    return tuple(part.strip().lower() for part in text.split(",") if part.strip())


if __name__ == "__main__":
    raise SystemExit(main())
