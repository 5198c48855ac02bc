"""The metrics of /metrics, in the text format of Prometheus.

METRICS is the table of the metrics. Each row reads the integers of the counters, or the state of the server, when
Prometheus asks. The package prometheus-client writes them; it is imported only then, and nothing of it is used when a
request is handled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from discosbackend.monitor.counters import BOUNDS, Counters
from discosbackend.monitor.slices import encoded_text
from discosbackend.monitor.snapshot import Snapshot
from discosbackend.monitor.state import AcquisitionState, dropped_log_lines

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

__all__ = ["METRICS", "PREFIX", "Metric", "Sample", "content_type", "pieces"]

PREFIX = "discos_backend_"
"""The beginning of every name."""

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]

# So many samples are made into one piece of the text. A sample of a histogram has a line for every bucket.
_A_PIECE = 20


class Histogram(NamedTuple):
    """The value of a sample of a histogram."""

    buckets: Sequence[int]
    """How many were in each of the buckets of BOUNDS, and how many were larger."""
    total: float
    """The sum of all values."""


class Sample(NamedTuple):
    """One value of a metric, with the values of its labels."""

    labels: tuple[str, ...]
    value: float | Histogram


class Metric(NamedTuple):
    """A row of the table."""

    name: str
    """The name without PREFIX. That of a counter ends in `_total`."""
    kind: Kind
    help: str
    labels: tuple[str, ...]
    read: Callable[[Snapshot], Iterator[Sample]]

    @property
    def full_name(self) -> str:
        """The name with PREFIX. The lines of a histogram have this name with `_bucket`, `_sum` and `_count`."""
        return PREFIX + self.name


def _one(read: Callable[[Snapshot], float | None]) -> Callable[[Snapshot], Iterator[Sample]]:
    """Return the reader of a metric without labels. None: there is no sample, because the value is not known."""

    def samples(snapshot: Snapshot) -> Iterator[Sample]:
        value = read(snapshot)
        if value is not None:
            yield Sample((), float(value))

    return samples


def _count(read: Callable[[Counters], float]) -> Callable[[Snapshot], Iterator[Sample]]:
    return _one(lambda snapshot: read(snapshot.counters))


def _of_acquisition(read: Callable[[AcquisitionState], float | None]) -> Callable[[Snapshot], Iterator[Sample]]:
    def value(snapshot: Snapshot) -> float | None:
        found = None if snapshot.state is None else snapshot.state.acquisition
        return None if found is None else read(found)

    return _one(value)


def _of_watchdog(read: Callable[[Any], float]) -> Callable[[Snapshot], Iterator[Sample]]:
    def value(snapshot: Snapshot) -> float | None:
        dog = None if snapshot.state is None else snapshot.state.watchdog
        return None if dog is None else read(dog)

    return _one(value)


def _lost_exchanges(snapshot: Snapshot) -> float | None:
    part = None if snapshot.recorder is None else snapshot.recorder()
    return None if part is None else part["lost"]


def _target_reachable(snapshot: Snapshot) -> float | None:
    part = None if snapshot.target is None else snapshot.target()
    return None if part is None else part["reachable"]


def _of_recordings(read: Callable[[Any], float | None]) -> Callable[[Snapshot], Iterator[Sample]]:
    """Return the reader of a metric that reads RecordingState."""

    def value(snapshot: Snapshot) -> float | None:
        found = None if snapshot.state is None else snapshot.state.recordings
        return None if found is None else read(found)

    return _one(value)


def _recorded(read: Callable[[Any], float]) -> Callable[[Snapshot], Iterator[Sample]]:
    """Return the reader of a metric that reads the counts of all recordings."""

    def value(snapshot: Snapshot) -> float | None:
        queue = None if snapshot.state is None else snapshot.state.queue
        return None if queue is None else read(queue.recorded)

    return _one(value)


def _info(snapshot: Snapshot) -> Iterator[Sample]:
    about = snapshot.about()
    yield Sample((about.name, about.backend, about.package, about.protocol), 1.0)


def _requests(snapshot: Snapshot) -> Iterator[Sample]:
    for name, counts in list(snapshot.counters.commands.items()):
        for code in ("ok", "fail", "invalid"):
            yield Sample((name, code), float(getattr(counts, code)))


def _latencies(snapshot: Snapshot) -> Iterator[Sample]:
    for name, counts in list(snapshot.counters.commands.items()):
        yield Sample((name,), Histogram(counts.buckets, counts.seconds))


def _held(snapshot: Snapshot) -> Iterator[Sample]:
    for lane in (None if snapshot.state is None else snapshot.state.lanes) or ():
        yield Sample((lane.name,), lane.seconds or 0.0)


def _waiting(snapshot: Snapshot) -> Iterator[Sample]:
    for lane in (None if snapshot.state is None else snapshot.state.lanes) or ():
        yield Sample((lane.name,), float(lane.queued))


def _overdue(snapshot: Snapshot) -> float | None:
    lanes = None if snapshot.state is None else snapshot.state.lanes
    return None if lanes is None else len({lane.holder for lane in lanes if lane.overdue})


def _sensor_values(snapshot: Snapshot) -> Iterator[Sample]:
    for sensor in () if snapshot.state is None else snapshot.state.sensors:
        if isinstance(sensor.value, (bool, int, float)):
            yield Sample((sensor.name, sensor.unit), float(sensor.value))


def _sensor_states(snapshot: Snapshot) -> Iterator[Sample]:
    for sensor in () if snapshot.state is None else snapshot.state.sensors:
        yield Sample((sensor.name, sensor.state), 1.0)


def _status_ok(snapshot: Snapshot) -> float | None:
    return None if snapshot.status is None else snapshot.status.text == "ok"


METRICS = (
    Metric(
        "info", "gauge", "1. The labels say what is served.", ("name", "backend", "package", "protocol"), _info
    ),
    Metric(
        "start_time_seconds", "gauge", "Start of the server, in Unix seconds.", (), _one(lambda s: s.about().begin)
    ),
    Metric(
        "healthy", "gauge", "1 if /health would answer 200, else 0.", (), _one(lambda snapshot: not snapshot.health())
    ),
    Metric("status_ok", "gauge", "1 if the text of the last status was ok, else 0.", (), _one(_status_ok)),
    Metric("requests_total", "counter", "Requests by their replies.", ("command", "code"), _requests),
    Metric("request_seconds", "histogram", "Time from a request to its reply.", ("command",), _latencies),
    Metric("open_connections", "gauge", "Open connections of clients.", (), _count(lambda counters: counters.open)),
    Metric("connections_total", "counter", "Connections of clients.", (), _count(lambda counters: counters.total)),
    Metric("received_bytes_total", "counter", "Bytes of requests.", (), _count(lambda counters: counters.bytes_in)),
    Metric("sent_bytes_total", "counter", "Bytes of replies.", (), _count(lambda counters: counters.bytes_out)),
    Metric("lane_held_seconds", "gauge", "For how long a command has held the lane, 0 if none does.", ("lane",), _held),
    Metric("lane_waiting", "gauge", "Commands that wait for the lane.", ("lane",), _waiting),
    Metric("overdue_threads", "gauge", "Commands whose thread has not returned in time.", (), _one(_overdue)),
    Metric(
        "blocked_seconds_total", "counter", "For how long the reactor was blocked.", (),
        _of_watchdog(lambda d: d.blocked),
    ),
    Metric("blocked_total", "counter", "Times the reactor was blocked.", (), _of_watchdog(lambda d: d.findings)),
    Metric(
        "acquiring", "gauge", "1 while an acquisition is running, else 0.", (), _of_acquisition(lambda a: a.acquiring)
    ),
    Metric(
        "pending_start_time_seconds", "gauge", "Time of the pending start, in Unix seconds.", (),
        _of_acquisition(lambda a: a.pending_start),
    ),
    Metric(
        "pending_stop_time_seconds", "gauge", "Time of the pending stop, in Unix seconds.", (),
        _of_acquisition(lambda a: a.pending_stop),
    ),
    Metric(
        "last_lateness_seconds", "gauge", "How late the last timed start or stop was.", (),
        _of_acquisition(lambda a: a.last_lateness),
    ),
    Metric(
        "clock_synchronised", "gauge", "1 if the clock of the host is synchronised, else 0.", (),
        _one(lambda snapshot: snapshot.clock.synchronisation.synchronised),
    ),
    Metric(
        "clock_error_seconds", "gauge", "Estimated error of the clock of the host.", (),
        _one(lambda snapshot: snapshot.clock.synchronisation.error),
    ),
    Metric("clock_steps_total", "counter", "Steps of the clock.", (), _one(lambda snapshot: snapshot.clock.steps)),
    Metric("sensor_value", "gauge", "Value of a sensor: a number, or 1 or 0.", ("sensor", "unit"), _sensor_values),
    Metric("sensor_state", "gauge", "1 for the current state of a sensor.", ("sensor", "state"), _sensor_states),
    Metric("recorded_bytes_total", "counter", "Bytes of dumps that were recorded.", (), _recorded(lambda r: r.size)),
    Metric("dumps_total", "counter", "Dumps that were made.", (), _recorded(lambda r: r.dumps)),
    Metric("lost_dumps_total", "counter", "Dumps that could not be recorded.", (), _recorded(lambda r: r.lost)),
    Metric(
        "recording_lag_seconds", "gauge", "Longest time from the end of a dump until it was on the disk.", (),
        _of_recordings(lambda r: r.lag),
    ),
    Metric(
        "recording_problem", "gauge", "1 if recording or converting fails, else 0.", (),
        _of_recordings(lambda r: r.problem != ""),
    ),
    Metric(
        "free_disk_bytes", "gauge", "Free space on the disk of the recordings.", (),
        _of_recordings(lambda r: r.free_bytes),
    ),
    Metric(
        "dropped_log_lines_total", "counter", "Lines of the log that were dropped.", (),
        _one(lambda _: dropped_log_lines()),
    ),
    Metric(
        "lost_exchanges_total", "counter", "Lines of the flight recorder that were lost.", (),
        _one(_lost_exchanges),
    ),
    Metric(
        "target_reachable", "gauge", "1 if a tap can connect to its target, else 0.", (), _one(_target_reachable)
    ),
)  # fmt: skip
"""The table of the metrics."""


def content_type() -> str:
    """Return the type of the text. Raise ImportError if prometheus-client is not installed."""
    from prometheus_client.exposition import CONTENT_TYPE_LATEST

    return CONTENT_TYPE_LATEST


def pieces(snapshot: Snapshot) -> Iterator[str]:
    """Return the text of all metrics in pieces. Each is made when it is asked for, in much less than 1 ms."""
    from prometheus_client.exposition import generate_latest
    from prometheus_client.registry import Collector

    class Piece(Collector):
        """A collector of some samples of one metric: what generate_latest() takes."""

        def __init__(self, family: Family) -> None:
            self._family = family

        def collect(self) -> Iterator[Family]:
            yield self._family

    for metric in METRICS:
        samples = metric.read(snapshot)
        size = 1 if metric.kind == "histogram" else _A_PIECE
        text = generate_latest(Piece(_family(metric, list(islice(samples, size))))).decode()
        yield text
        while some := list(islice(samples, size)):
            lines = generate_latest(Piece(_family(metric, some))).decode().splitlines(keepends=True)
            # The lines of comments stand only once before the samples of a metric.
            yield "".join(line for line in lines if not line.startswith("# "))


def _family(metric: Metric, samples: Sequence[Sample]) -> Family:
    """Return samples of a metric as prometheus-client has them."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.full_name, metric.help, labels=metric.labels)
        for labels, value in samples:
            assert isinstance(value, Histogram)
            histogram.add_metric(_labels(labels), list(_cumulative(value.buckets)), value.total)
        return histogram
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.full_name, metric.help, labels=metric.labels)
    for labels, value in samples:
        assert not isinstance(value, Histogram)
        family.add_metric(_labels(labels), value)
    return family


def _labels(texts: Sequence[str]) -> list[str]:
    """Return the values of labels as UTF-8 can have them."""
    return [encoded_text(text).decode() for text in texts]


def _cumulative(buckets: Sequence[int]) -> Iterator[tuple[str, float]]:
    """Return the buckets as Prometheus has them: each also counts what is in those before it."""
    total = 0
    for bound, count in zip((*map(str, BOUNDS), "+Inf"), buckets, strict=True):
        total += count
        yield bound, total
