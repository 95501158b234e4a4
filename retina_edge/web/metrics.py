"""Metrics of the streams and the outputs in Prometheus's text format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from retina_edge.pipeline.stream import State, Stream, StreamStatus
from retina_edge.sinks.outputs import OutputStatus
from retina_edge.system.printable import printable

# Help texts of the counters, by the name of the field of StreamStatus.
COUNTERS = {
    "captured": "Frames read.",
    "detected": "Frames with a result.",
    "dropped": "Frames of a live stream that a newer frame replaced.",
    "expired": "Frames or results of a live stream that were discarded because they were too old.",
    "failed": "Frames that the detector could not process.",
    "reconnects": "Attempts to reopen the source.",
}
# Help texts of the counters, by the name of the field of OutputStatus.
OUTPUT_COUNTERS = {
    "done": "Results written, or events that the receiver confirmed.",
    "dropped": "Results or events that were discarded to make room for newer ones.",
    "lost": "Results that were lost because a file failed, or events that the receiver refused.",
}


class StreamCollector(Collector):
    """A collector that reads the status of the streams at each scrape and keeps no state.

    Args:
        status: function that returns the status of all streams.
    """

    def __init__(self, status: Callable[[], Sequence[StreamStatus]]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of all streams."""
        statuses = self._status()
        for name, text in COUNTERS.items():
            counter = CounterMetricFamily(
                f"retina_edge_{name}_frames" if name != "reconnects" else "retina_edge_reconnects",
                text,
                labels=["stream"],
            )
            for status in statuses:
                counter.add_metric([status.name], getattr(status, name))
            yield counter
        online = GaugeMetricFamily("retina_edge_online", "1 if the stream delivers frames, else 0.", labels=["stream"])
        rate = GaugeMetricFamily("retina_edge_results_per_second", "Results per second.", labels=["stream"])
        latency = GaugeMetricFamily(
            "retina_edge_latency_seconds",
            "Seconds from capture to result, over the newest results.",
            labels=["stream", "quantile"],
        )
        objects = GaugeMetricFamily("retina_edge_objects", "Objects in the newest result.", labels=["stream", "class"])
        for status in statuses:
            online.add_metric([status.name], status.state == State.ONLINE.value)
            rate.add_metric([status.name], status.fps)
            for quantile, milliseconds in (("0.5", status.latency_p50), ("0.95", status.latency_p95)):
                if milliseconds is not None:
                    latency.add_metric([status.name, quantile], milliseconds / 1000)
            for kind, count in status.objects.items():
                objects.add_metric([status.name, kind], count)
        yield from (online, rate, latency, objects)


class OutputCollector(Collector):
    """A collector that reads the status of the outputs at each scrape and keeps no state.

    Args:
        status: function that returns the status of all outputs.
    """

    def __init__(self, status: Callable[[], Sequence[OutputStatus]]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of all outputs."""
        statuses, labels = self._status(), ["output", "kind"]
        for name, text in OUTPUT_COUNTERS.items():
            counter = CounterMetricFamily(f"retina_edge_output_{name}", text, labels=labels)
            for status in statuses:
                counter.add_metric([status.name, status.kind], getattr(status, name))
            yield counter
        waiting = GaugeMetricFamily(
            "retina_edge_output_waiting", "Results or events that wait to be written or delivered.", labels=labels
        )
        up = GaugeMetricFamily(
            "retina_edge_output_up", "1 if the output works, 0 if it waits or has failed.", labels=labels
        )
        for status in statuses:
            waiting.add_metric([status.name, status.kind], status.waiting)
            up.add_metric([status.name, status.kind], status.state in ("ok", "lost"))
        yield from (waiting, up)


class RegionCollector(Collector):
    """A collector that reads the counts of zones and lines at each scrape and keeps no state.

    Args:
        streams: the streams.
    """

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._streams = streams

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the zones and lines of all streams."""
        labels = ["stream", "region", "class"]
        counts = CounterMetricFamily(
            "retina_edge_region_objects",
            "Objects that entered, left or dwelled in a zone, or crossed a line in or out.",
            labels=[*labels, "count"],
        )
        inside = GaugeMetricFamily("retina_edge_zone_objects", "Objects in a zone.", labels=labels)
        visits = SummaryMetricFamily(
            "retina_edge_zone_visit_seconds", "Dwell time of objects that have left a zone.", labels=labels
        )
        longest = GaugeMetricFamily(
            "retina_edge_zone_longest_visit_seconds", "Longest dwell time of the objects in a zone.", labels=labels[:2]
        )
        for stream in self._streams:
            online = stream.state is State.ONLINE
            for tally in stream.latest.tallies if stream.latest else ():
                region = [stream.name, printable(tally.region.name)]
                for count, by_class in tally.by_class.items():
                    for name, number in by_class.items():
                        if count != "inside":
                            counts.add_metric([*region, printable(name), count], number)
                        elif online:
                            inside.add_metric([*region, printable(name)], number)
                for name, seconds in tally.visit_seconds.items():
                    visits.add_metric([*region, printable(name)], tally.by_class["left"][name], seconds)
                if tally.visits and online:
                    longest.add_metric(region, max(visit.seconds for visit in tally.visits))
        yield from (counts, inside, visits, longest)


def exposition(
    streams: Callable[[], Sequence[StreamStatus]],
    outputs: Callable[[], Sequence[OutputStatus]] = list,
    *,
    counted: Sequence[Stream] = (),
) -> bytes:
    """Return the metrics of all streams, outputs, zones and lines as text.

    Args:
        streams: function that returns the status of all streams.
        outputs: function that returns the status of all outputs.
        counted: the streams whose zones and lines are counted.
    """
    registry = CollectorRegistry()
    registry.register(StreamCollector(streams))
    registry.register(OutputCollector(outputs))
    registry.register(RegionCollector(counted))
    return generate_latest(registry)
