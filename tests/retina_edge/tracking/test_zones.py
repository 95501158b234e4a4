"""Zones and lines: parsed from the command line, or refused with the expected and the actual value."""

from __future__ import annotations

import argparse

import pytest

from retina_edge.tracking.counting import make_counters
from retina_edge.tracking.zones import Line, Zone, ZoneError, check_regions, line, zone

NAMES = ("person", "car")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gate=0,0 1,0 .5,1.", Zone("gate", ((0, 0), (1, 0), (0.5, 1)))),
        ("gate=0,0px 640,0px 64.5,100px", Zone("gate", ((0, 0), (640, 0), (64.5, 100)), "px")),
        ("gate@car=0,0 1,0 1,1", Zone("gate", ((0, 0), (1, 0), (1, 1)), classes=("car",))),
        (
            " a b @car, traffic light=0,0 1,0 1,1",
            Zone(" a b ", ((0, 0), (1, 0), (1, 1)), "relative", ("car", "traffic light")),
        ),
        ("yard:gate@car=0,0 1,0 1,1", Zone("gate", ((0, 0), (1, 0), (1, 1)), "relative", ("car",), "yard")),
        (
            "rtsp://***@h:554/a?b=c:gate=0,0 1,0 1,1",
            Zone("gate", ((0, 0), (1, 0), (1, 1)), stream="rtsp://***@h:554/a?b=c"),
        ),
    ],
)
def test_a_zone_is_parsed(text: str, expected: Zone) -> None:
    assert zone(text) == expected


def test_a_line_is_parsed() -> None:
    assert line("0:door@person=0.1,0.5 0.9,0.5") == Line("door", ((0.1, 0.5), (0.9, 0.5)), "relative", ("person",), "0")
    assert (line("a=1,2px 3,4px").start, line("a=1,2px 3,4px").end) == ((1, 2), (3, 4))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"expected \[STREAM:\]NAME.*got ''"),
        ("gate", "got 'gate'"),
        ("gate=", "got 'gate='"),
        ("0,0 1,0 1,1", "got '0,0 1,0 1,1'"),
        ("gate=0,0 1;0 1,1", "got '1;0' in 'gate=0,0 1;0 1,1'"),
        ("gate=0,0 1,0 1,1,1", "got '1,1,1' in"),
        ("gate=0,0 1,0 1e-1,1", "got '1e-1,1' in"),
        ("gate=0,0 1,0 nan,1", "got 'nan,1' in"),
        ("gate=0,0 1,0 64px,100px", "X,Ypx.*got '64px,100px' in"),
        ("gate=0,0px 1,0 1,1", "all points relative or all in pixels, got both"),
        ("gate=0,0 1,0 1,1.5", r"from 0 to 1, .* or all in pixels as X,Ypx.*got 1,1\.5; in 'gate"),
        ("gate=0,0 1,0 -0.1,1", r"got -0\.1,1"),
        ("gate=0,0px 9,0px -1,9px", "got -1,9px"),
        ("=0,0 1,0 1,1", "name: expected printable text without : @ =, got ''"),
        ("yard:=0,0 1,0 1,1", "name: expected printable text"),
        ("a\tb=0,0 1,0 1,1", r"got 'a\\tb'"),
        (":gate=0,0 1,0 1,1", "got an empty name"),
        ("gate@=0,0 1,0 1,1", "got an empty name"),
        ("gate@car,,person=0,0 1,0 1,1", "got an empty name"),
        ("gate=0,0 1,1", "gate: expected a zone of 3 points or more, got 2"),
        ("gate=0,0 1,0 1,1 0,0", "expected each point once, got 0,0 twice; a zone closes automatically"),
        ("gate=0.1,0.1 0.2,0.2 0.3,0.3", "expected a zone with area, got"),
        ("gate=0,0 1,1 1,0 0,1", "does not cross itself, got sides from 0,0 and from 1,0 that meet"),
        ("gate=0,0px 4,0px 4,4px 2,0px 0,4px", "does not cross itself"),  # a corner on another side
        ("gate=0,0px 4,0px 4,4px 4,2px", "got sides that overlap at 4,4px"),
    ],
)
def test_an_invalid_zone_is_refused(text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        zone(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("door=0,0", "door: expected a line of 2 points, got 1"),
        ("door=0,0 1,0 1,1", "expected a line of 2 points, got 3"),
        ("door=0,0 0,0", "expected each point once"),
        ("door=0,0 x", "got 'x' in"),
    ],
)
def test_an_invalid_line_is_refused(text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        line(text)


def test_argparse_shows_the_error(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--zone", type=zone, action="append")
    with pytest.raises(SystemExit):
        parser.parse_args(["--zone", "gate=0,0 1,0 1,2"])
    assert "argument --zone: gate: expected points X,Y from 0 to 1" in capsys.readouterr().err
    assert len(parser.parse_args(["--zone", "a=0,0 1,0 1,1", "--zone", "b=0,0 1,0 1,1"]).zone) == 2


def test_points_scale_with_the_frame_unless_in_pixels() -> None:
    assert line("a=0.25,0.5 1,1").in_pixels((400, 600)).tolist() == [[150, 200], [600, 400]]
    assert line("a=25,50px 1,1px").in_pixels((400, 600)).tolist() == [[25, 50], [1, 1]]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["yrd:a=0,0 1,0 1,1"], "a: expected one of the streams yard, road; got 'yrd'"),
        (["a@lorry=0,0 1,0 1,1"], "a: expected classes among person, car; got lorry"),
        (["a=0,0 1,0 1,1", "a=0,0 1,0 1,1"], "yard: expected regions with different names, got a twice"),
        (["a=0,0 1,0 1,1", "road:a=0,0 1,0 1,1"], "road: expected regions"),
    ],
)
def test_regions_that_do_not_fit_the_streams_or_the_model_are_refused(texts: list[str], message: str) -> None:
    with pytest.raises(ZoneError, match=message):
        check_regions([zone(text) for text in texts], streams=("yard", "road"), class_names=NAMES)


def test_valid_regions_are_accepted_and_counted_in_their_stream() -> None:
    regions: list[Zone | Line] = [*map(zone, ("yard:a@car=0,0 1,0 1,1", "road:a=0,0 1,0 1,1")), line("b=0,0 1,1")]
    check_regions(regions, streams=("yard", "road"), class_names=NAMES)
    assert [counter.tally().region for counter in make_counters(regions, stream="road")] == regions[1:]
