"""Published packages that are not in the environment of the tests, downloaded once.

Sources that a test reads are checked by digest. Packages that a test runs are installed into a folder of their own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Wheel:
    """A wheel of the package index.

    Attributes:
        package: name of the package.
        version: exact version.
        sha256: digest of the wheel.
    """

    package: str
    version: str
    sha256: str


def unpacked(wheel: Wheel, config: pytest.Config) -> Path:
    """Return a folder with a wheel's Python sources and stubs, kept in pytest's cache.

    The test is skipped if the wheel cannot be downloaded.
    """
    assert config.cache is not None
    folder = config.cache.mkdir("published") / wheel.sha256
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=folder.parent) as name:
            work = Path(name)
            file = _download(wheel, work)
            with zipfile.ZipFile(file) as archive:
                sources = [name for name in archive.namelist() if name.endswith((".py", ".pyi"))]
                archive.extractall(work / "sources", sources)
            (work / "sources").rename(folder)
    return folder


def _download(wheel: Wheel, folder: Path) -> Path:
    (folder / "requirements.txt").write_text(f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
    machine = ["--python-version=3.11", "--platform=manylinux_2_28_x86_64", "--only-binary=:all:"]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", *machine]
    run = subprocess.run(
        [*command, "-r", "requirements.txt", "-d", "."], cwd=folder, capture_output=True, text=True, check=False
    )
    if "DO NOT MATCH THE HASHES" in run.stderr:
        pytest.fail(run.stderr)
    files = list(folder.glob("*.whl"))
    if run.returncode or not files:
        pytest.skip(f"needs {wheel.package} {wheel.version} from the package index: {_last_line(run.stderr)}")
    return files[0]


def installed(requirement: str, config: pytest.Config) -> Path:
    """Return a folder into which pip has installed a package and all that it needs, kept in pytest's cache.

    The test is skipped if pip cannot install it.

    Args:
        requirement: name and exact version, such as ``tensorrt-lean-cu13==11.4.0.106``.
        config: fixture ``pytestconfig``.
    """
    assert config.cache is not None
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    folder = config.cache.mkdir("installed") / f"{requirement}-{python}"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=folder.parent) as name:
            work = Path(name) / "packages"
            command = [sys.executable, "-m", "pip", "install", "--target", str(work), requirement]
            run = subprocess.run(command, capture_output=True, text=True, check=False)
            if run.returncode:
                pytest.skip(f"needs {requirement} from the package index: {_last_line(run.stderr)}")
            work.rename(folder)
    return folder


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]
