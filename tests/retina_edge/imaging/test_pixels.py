"""Pixels of image files: equal to those of another reader, or refused with the reason."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from engines.core.contract import DetectorContract
from engines.core.errors import ContractError, SourceError
from retina_edge import Detector
from retina_edge.assets import MODEL
from retina_edge.detect import main as detect
from retina_edge.imaging import image_file
from retina_edge.imaging.image_file import read_image
from retina_edge.imaging.image_header import read_header

SIZE = (24, 40)
# Libraries convert CMYK and grayscale with their own rounding.
ROUNDING = 1


@pytest.fixture(autouse=True)
def _report_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_file, "_reported", set())


def noise(bands: int, most: int, dtype: Any, seed: int = 0) -> npt.NDArray[Any]:
    shape = SIZE if bands == 1 else (*SIZE, bands)
    return np.random.default_rng(seed).integers(0, most + 1, shape).astype(dtype)


def options_of(suffix: str) -> dict[str, Any]:
    """Return options with which Pillow changes no pixel."""
    return {"lossless": True, "exact": True} if suffix == ".webp" else {}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dtype=st.sampled_from(["uint8", "uint16", "int16", "uint32", "float32", "float64"]),
    bands=st.integers(1, 6),
    bits=st.integers(8, 16),
    alpha=st.sampled_from([0, 1, 2]),
    planar=st.booleans(),
    big=st.booleans(),
)
def test_a_tiff_is_read_like_tifffile_reads_it_or_refused(
    tmp_path: Path, dtype: str, bands: int, bits: int, alpha: int, planar: bool, big: bool
) -> None:
    bits = min(bits, 15 if dtype == "int16" else 16)
    most = 255 if dtype == "uint8" else 2**bits - 1
    pixels = noise(bands, most, dtype)
    path = tmp_path / "a.tif"
    extra = [alpha] + [0] * (bands - 4) if bands > 3 else None
    stored = np.moveaxis(pixels, -1, 0) if planar and bands > 1 else pixels
    tifffile.imwrite(
        path,
        stored,
        photometric="rgb" if bands > 2 else "minisblack",
        planarconfig=("separate" if planar else "contig") if bands > 1 else None,
        extrasamples=extra,
        bigtiff=big,
        byteorder=">" if big else "<",
    )
    try:
        image = read_image(path, max(9, bits) if dtype != "uint8" else 16)
    except SourceError as error:
        message = str(error)
        readable = dtype == "uint8" or (dtype == "uint16" and bands != 2 and not (planar and bands > 1))
        assert not readable or bands > 4, message
        assert message.startswith(f"{path}: expected ")
    else:
        assert dtype in ("uint8", "uint16")
        expected = (pixels >> max(0, max(9, bits) - 8) if dtype != "uint8" else pixels).astype(np.uint8)
        expected = expected.reshape(*SIZE, bands)
        expected = np.repeat(expected[..., :1], 3, axis=2) if bands < 3 else expected[..., 2::-1]
        np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        *itertools.product(("RGB", "L", "1"), (".png", ".jpg", ".tif", ".webp", ".bmp")),
        *itertools.product(("RGBA", "LA", "P"), (".png", ".tif", ".webp")),
        *itertools.product(("CMYK",), (".jpg", ".tif")),
    ],
)
def test_an_image_is_read_like_pillow_reads_it(tmp_path: Path, mode: str, suffix: str) -> None:
    image = Image.fromarray(noise(3, 255, np.uint8))
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(noise(1, 255, np.uint8, seed=1)))
    path = tmp_path / f"a{suffix}"
    image.convert(mode).save(path, None, **options_of(suffix))
    with Image.open(path) as reopened:
        expected = np.asarray(reopened.convert("RGB"))[:, :, ::-1].astype(int)
    assert np.abs(read_image(path).astype(int) - expected).max() <= ROUNDING


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_the_orientation_is_applied(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    Image.fromarray(noise(3, 255, np.uint8)).save(path, None, exif=exif, **options_of(suffix))
    with Image.open(path) as reopened:
        expected = np.asarray(ImageOps.exif_transpose(reopened).convert("RGB"))[:, :, ::-1]
    np.testing.assert_allclose(read_image(path).astype(int), expected.astype(int), atol=ROUNDING)


@pytest.mark.parametrize("bits", [9, 10, 12, 14])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_fewer_bits_in_16_are_reported_once_and_read_on_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, bits: int, suffix: str
) -> None:
    gray = noise(1, 255, np.uint8)
    paths = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for path in paths:
        cv2.imwrite(str(path), gray.astype(np.uint16) << (bits - 8))
    with caplog.at_level(logging.WARNING):
        dark = [read_image(path) for path in paths]
    assert dark[0].max() < 64
    (record,) = caplog.records
    assert f"uses only values up to {255 << (bits - 8)}" in record.message
    assert f"--bit-depth {bits}" in record.message
    caplog.clear()
    np.testing.assert_array_equal(read_image(paths[0], bits)[:, :, 0], gray)
    assert not caplog.records
    if bits > 9:
        with pytest.raises(SourceError, match=f"expected values below {2 ** (bits - 1)} for a bit depth of {bits - 1}"):
            read_image(paths[0], bits - 1)


def test_all_16_bits_need_no_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), noise(3, 65535, np.uint16))
    read_image(tmp_path / "a.png")
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros(SIZE, np.uint16))
    read_image(tmp_path / "black.png")
    assert not caplog.records


def test_a_dark_camera_image_is_detected_in_with_its_bit_depth(
    tmp_path: Path, treecrowns: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gray = cv2.imread(str(sorted((treecrowns / "images").iterdir())[0]), cv2.IMREAD_GRAYSCALE)
    assert gray is not None
    cv2.imwrite(str(tmp_path / "8.png"), gray)
    cv2.imwrite(str(tmp_path / "12.png"), gray.astype(np.uint16) << 4)
    found = []
    for name, depth in (("8.png", []), ("12.png", ["--bit-depth", "12"]), ("12.png", [])):
        out = tmp_path / "out.jsonl"
        assert detect([str(MODEL), str(tmp_path / name), "--json", str(out), "--score", "0.1", *depth]) == 0
        found.append(json.loads(out.read_text())["detections"])
    assert found[0] == found[1]
    assert len(found[2]) < len(found[0]) / 2
    capsys.readouterr()


def test_the_contract_remembers_the_bit_depth(tmp_path: Path) -> None:
    with Detector.load(MODEL) as detector:
        contract = detector.contract
        assert "bit_depth" not in contract.to_json()
        twelve = dataclasses.replace(contract, bit_depth=12)
        assert DetectorContract.from_json(twelve.to_json()).bit_depth == 12
        for wrong in (8, 17, True):
            with pytest.raises(ContractError, match="expected a number of bits from 9 to 16"):
                dataclasses.replace(contract, bit_depth=wrong)
        path = tmp_path / "a.png"
        cv2.imwrite(str(path), noise(1, 4095, np.uint16))
        detector.executor.contract = twelve  # type: ignore[misc]
        pil = detector([Image.open(path)])[0]
        assert len(detector([path])[0]) == len(pil)


def png_of(width: int, height: int) -> bytes:
    """Return a PNG with a correct header, and almost no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_small_file_cannot_take_all_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of(32000, 32000))
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom retina_edge.imaging.image_file import read_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    read_image(Path(sys.argv[1]))\nexcept Exception as error:\n    print(type(error).__name__, error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    message, mebibytes = run.stdout.splitlines()
    assert "SourceError" in message
    assert "expected at most 268 million pixels, got 32000x32000; cut the image into tiles" in message
    assert int(mebibytes) < 100


def test_the_limit_of_pixels_can_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), noise(3, 255, np.uint8))
    monkeypatch.setenv("RETINA_EDGE_MAX_PIXELS", "959")
    with pytest.raises(SourceError, match="got 40x24"):
        read_image(tmp_path / "a.png")
    monkeypatch.setenv("RETINA_EDGE_MAX_PIXELS", "960")
    read_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp", ".bmp", ".jp2", ".avif", ".ppm", ".pgm"])
def test_the_size_is_known_before_decoding(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if not cv2.haveImageWriter(str(path)):
        pytest.skip(f"this OpenCV does not write {suffix}")
    cv2.imwrite(str(path), noise(1 if suffix == ".pgm" else 3, 255, np.uint8))
    assert read_header(path.read_bytes()).size == SIZE


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 50}, {"lossless": True, "exif": b"Exif\0\0II*\0"}])
def test_the_size_of_every_kind_of_webp_is_known(tmp_path: Path, options: dict[str, Any]) -> None:
    Image.fromarray(noise(3, 255, np.uint8)).save(tmp_path / "a.webp", **options)
    assert read_header((tmp_path / "a.webp").read_bytes()).size == SIZE


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"%PDF-1.7", "PDF"),
        (b'<?xml version="1.0"?><svg>', "SVG"),
        (b"\xff\x0a" + bytes(20), "JPEG XL"),
        (b"SIMPLE  =   T", "FITS"),
    ],
)
def test_other_formats_are_named(tmp_path: Path, data: bytes, kind: str) -> None:
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(SourceError, match=f"got {kind}; convert it to JPEG or PNG"):
        read_image(tmp_path / "a.jpg")


@settings(max_examples=200, deadline=None)
@given(
    start=st.sampled_from(
        [
            *(
                b"\x89PNG\r\n\x1a\n",
                b"\xff\xd8\xff\xc0",
                b"II*\0",
                b"MM\0+",
                b"BM",
                b"RIFF\0\0\0\0WEBPVP8 ",
                b"P6 ",
                b"",
            ),
            *(b"\0\0\0\x0cjP  ", b"\0\0\0\x18ftypavif", b"\xff\x4f\xff\x51"),
        ]
    ),
    rest=st.binary(max_size=200),
)
def test_a_damaged_header_is_no_error(start: bytes, rest: bytes) -> None:
    header = read_header(start + rest)
    assert header.size is None or len(header.size) == 2


def test_deep_avif_is_converted_by_its_own_depth(tmp_path: Path) -> None:
    gray = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))
    color = np.repeat(gray[..., None], 3, axis=2)
    for name, image, options in (
        ("8.avif", color, []),
        ("10.avif", color.astype(np.uint16) * 4, [cv2.IMWRITE_AVIF_DEPTH, 10]),
    ):
        if not cv2.haveImageWriter(name):
            pytest.skip("this OpenCV does not write AVIF")
        cv2.imwrite(str(tmp_path / name), image, options)
    shallow, deep = (read_image(tmp_path / name).astype(int) for name in ("8.avif", "10.avif"))
    assert np.abs(shallow - deep).max() < 16


def test_the_depth_of_a_netpbm_stands_in_it(tmp_path: Path) -> None:
    values = np.array([[0, 512, 1023]], ">u2")
    (tmp_path / "a.pgm").write_bytes(b"P5 # ten bits\n3 1\n1023\n" + values.tobytes())
    assert read_image(tmp_path / "a.pgm")[0, :, 0].tolist() == [0, 128, 255]


HUGE = struct.pack(">HH", 20000, 20000)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.gif", b"GIF89a" + struct.pack("<HH", 20000, 20000) + b"\x80\0\0" + bytes(20)),
        ("a.bmp", b"BM" + bytes(12) + struct.pack("<IHHHH", 12, 20000, 20000, 1, 24)),
        ("a.jpg", b"\xff\xd8\xff\x01\xff\xc0\0\x11\x08" + HUGE + b"\x03" + bytes(9) + b"\xff\xda\xff\xd9"),
    ],
)
def test_the_limit_holds_for_every_header(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match="expected at most 268 million pixels, got 20000x20000"):
        read_image(tmp_path / name)


def test_opencv_itself_has_the_limit(tmp_path: Path) -> None:
    """A TIFF may hide its size from the reader of its header, but not from its decoder."""
    code = (
        "import engines, cv2, numpy as np, sys\n"
        "try:\n    cv2.imdecode(np.fromfile(sys.argv[1], np.uint8), cv2.IMREAD_COLOR)\n"
        "except cv2.error as error:\n    print('refused')\n"
    )
    (tmp_path / "a.png").write_bytes(png_of(20000, 20000))
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.png")], capture_output=True, text=True, check=True
    )
    assert "refused" in run.stdout or "validateInputImageSize" in run.stderr


def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    for path in (tmp_path / "a.jpg", tmp_path, Path("/dev/zero")):
        with pytest.raises(SourceError, match="expected an image file, got a folder, a pipe or a device"):
            read_image(path)
