"""The inventory of metrics: base units, ``_total`` on counters, never a symbol as a label.

docs/reference/metrics.md is tested against it.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from tickloom.observe.events import AssignmentReceived, AssignmentRevoked, Committed, Events

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_FRESHNESS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 3_600, 21_600, 86_400)
_SIZES = (1, 10, 100, 1_000, 10_000, 25_000, 50_000, 100_000, 250_000)


class Metrics:
    """All metrics of one daemon, in a registry of their own. Only the event loop's thread writes them."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(f"tickloom_{name}", meaning, labels, registry=registry)

        def gauge(name: str, meaning: str, *labels: str) -> Gauge:
            return Gauge(f"tickloom_{name}", meaning, labels, registry=registry)

        def histogram(name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"tickloom_{name}", meaning, labels, buckets=buckets, registry=registry)

        self.messages = counter("messages_total", "Messages committed, by topic.", "topic")
        self.rows_stored = counter("rows_stored_total", "Messages that brought a new key.")
        self.rows_superseded = counter("rows_superseded_total", "Messages that met an existing key.")
        self.rows_collapsed = counter(
            "rows_collapsed_total",
            "Superseded messages whose value differs from that of the message that superseded them.",
        )
        self.rejects = counter("rejects_total", "Dead letters written, by reason.", "reason")
        self.batches = counter("batches_total", "Batches committed.")
        self.batch_messages = histogram("batch_messages", "Messages in a committed batch.", _SIZES)
        self.stage_seconds = histogram(
            "stage_seconds", "Time that one batch or chunk spends in a stage.", _SECONDS, "stage"
        )
        self.stage_cpu_seconds = counter(
            "stage_cpu_seconds_total",
            "CPU time of each stage's own thread, without the threads of polars and librdkafka.",
            "stage",
        )
        self.freshness_seconds = histogram(
            "freshness_seconds", "Time from a batch's oldest record timestamp to its commit.", _FRESHNESS
        )
        self.up = gauge("up", "1 while `kafka` or `postgres` answers and nothing waits for it, else 0.", "target")
        self.up_changed = gauge(
            "up_changed_timestamp_seconds", "Unix time of the last change of `tickloom_up`.", "target"
        )
        self.standing_by = gauge(
            "standing_by", "1 while this replica reads nothing because other replicas do; `/livez` says why."
        )
        self.lag_messages = gauge(
            "lag_messages",
            "Messages in a partition of this replica that are not committed yet, up to the last stable offset; no series while unknown.",
            "topic",
            "partition",
        )
        self.lag_seconds = gauge(
            "lag_seconds",
            "How long the oldest of these messages has been waiting: since it was first seen in the log or, in a backlog "
            "older than the process, since the newest committed record timestamp; 0 when drained.",
            "topic",
            "partition",
        )
        self.open_transaction_messages = gauge(
            "open_transaction_messages",
            "Messages held back by a producer's open transaction; they do not count as lag, since they cannot be read yet.",
            "topic",
            "partition",
        )
        self.open_transaction_seconds = gauge(
            "open_transaction_seconds",
            "How long the same transaction has been holding messages back.",
            "topic",
            "partition",
        )
        self.retries = counter(
            "retries_total",
            "Attempts that failed because of an outage and were repeated, by the service that was away.",
            "target",
        )
        self.fenced = counter("fenced_total", "Times that another replica was found to have taken over.")
        self.rebalances = counter("rebalances_total", "Assignments received.")
        self.gaps = counter("gap_messages_total", "Messages lost to retention and recorded in `tickloom.gaps`.")
        self.partitions_created = counter("partitions_created_total", "Table partitions created.")
        self.table_partitions = gauge("table_partitions", "Number of partitions of a table.", "table")
        self.table_partitions_limit = gauge(
            "table_partitions_limit", "Number of partitions up to which a query over a whole table finds enough locks."
        )
        self.partitions_until = gauge(
            "partitions_until_timestamp_seconds",
            "Unix time up to which a table has all partitions, counted from now.",
            "table",
        )
        self.symbols_cached = gauge("symbols_cached", "Symbols whose newest rows are in memory.")
        self.symbols_loaded = counter("symbols_loaded_total", "Symbols whose newest rows were read from Postgres.")
        self.assigned_partitions = gauge("assigned_partitions", "Kafka partitions that this replica owns.")
        self.last_progress = gauge("last_progress_timestamp_seconds", "Unix time of the last commit.")
        self.build_info = gauge("build_info", "Always 1; the labels say what runs.", "version", "python", "revision")

    def subscribe(self, events: Events) -> None:
        """Count these events from now on."""
        events.subscribe(AssignmentReceived, self._assignment_received)
        events.subscribe(AssignmentRevoked, lambda _: self.assigned_partitions.set(0))
        events.subscribe(Committed, self._committed)

    def _assignment_received(self, event: AssignmentReceived) -> None:
        self.rebalances.inc()
        self.assigned_partitions.set(len(event.partitions))

    def _committed(self, event: Committed) -> None:
        self.batches.inc()
        self.batch_messages.observe(event.total)
        self.stage_seconds.labels("load").observe(event.load_seconds)
        self.rows_stored.inc(event.stored)
        self.rows_superseded.inc(event.superseded)
        self.rows_collapsed.inc(event.collapsed)
        self.gaps.inc(event.missing)
        for reason, count in event.rejects.items():
            self.rejects.labels(reason).inc(count)
        for topic, count in event.messages.items():
            self.messages.labels(topic).inc(count)
        if event.oldest_ms is not None:
            self.freshness_seconds.observe(max(0.0, event.at - event.oldest_ms / 1_000))
        self.symbols_cached.set(event.symbols_cached)
        self.last_progress.set(event.at)

    def cpu_by_stage(self) -> dict[str, float]:
        """CPU seconds so far, by stage."""
        (family,) = self.stage_cpu_seconds.collect()
        return {
            sample.labels["stage"]: round(sample.value, 3)
            for sample in family.samples
            if sample.name.endswith("_total")
        }


class CpuClock:
    """Adds the CPU time of one stage's thread to the stage's counter."""

    def __init__(self, counter: Counter, read: Callable[[], float]) -> None:
        """``read`` gives the thread's CPU seconds so far. Time before now is not counted."""
        self._counter = counter
        self._read = read
        self._seen = read()

    def note(self) -> None:
        """Count the time since the last call."""
        now = self._read()
        self._counter.inc(now - self._seen)
        self._seen = now
