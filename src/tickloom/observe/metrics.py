"""The inventory of metrics: base units, ``_total`` on counters, never a symbol as a label.

README's table is tested against it.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_FRESHNESS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 3_600, 21_600, 86_400)
_SIZES = (1, 10, 100, 1_000, 10_000, 25_000, 50_000, 100_000, 250_000)


class Metrics:
    """All metrics of one daemon, in a registry of their own. Only the event loop's thread writes them."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, told: str, *labels: str) -> Counter:
            return Counter(f"tickloom_{name}", told, labels, registry=registry)

        def gauge(name: str, told: str, *labels: str) -> Gauge:
            return Gauge(f"tickloom_{name}", told, labels, registry=registry)

        def histogram(name: str, told: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"tickloom_{name}", told, labels, buckets=buckets, registry=registry)

        self.messages = counter("messages_total", "Messages committed, by topic.", "topic")
        self.rows_stored = counter("rows_stored_total", "Messages that brought a new key.")
        self.rows_superseded = counter("rows_superseded_total", "Messages that met an existing key.")
        self.rows_collapsed = counter(
            "rows_collapsed_total",
            "Of the messages that met an existing key those whose value differs from its next one.",
        )
        self.rejects = counter("rejects_total", "Dead letters written, by reason.", "reason")
        self.batches = counter("batches_total", "Batches committed.")
        self.batch_messages = histogram("batch_messages", "Messages in a committed batch.", _SIZES)
        self.stage_seconds = histogram("stage_seconds", "Time of one batch or chunk in a stage.", _SECONDS, "stage")
        self.stage_cpu_seconds = counter(
            "stage_cpu_seconds_total",
            "CPU time of each stage's own thread (polars' and librdkafka's threads aside).",
            "stage",
        )
        self.freshness_seconds = histogram(
            "freshness_seconds", "From a batch's oldest record timestamp to its commit.", _FRESHNESS
        )
        self.up = gauge("up", "Whether `kafka` or `postgres` answers, and nothing waits for it: 1 or 0.", "target")
        self.up_changed = gauge(
            "up_changed_timestamp_seconds", "Unix time since which `tickloom_up` is what it is.", "target"
        )
        self.standing_by = gauge(
            "standing_by", "1 while this replica reads nothing because others do; `/livez` says why."
        )
        self.lag_messages = gauge(
            "lag_messages",
            "Messages of a partition of ours that are not yet committed, up to the last stable offset; none while unknown.",
            "topic",
            "partition",
        )
        self.lag_seconds = gauge(
            "lag_seconds",
            "How long the oldest of them has been waiting: since it was first seen in the log, or, of a backlog from before "
            "the start, since the newest committed record's time; 0 when drained.",
            "topic",
            "partition",
        )
        self.open_transaction_messages = gauge(
            "open_transaction_messages",
            "Messages that a producer's open transaction holds back; no lag, for nobody can read them yet.",
            "topic",
            "partition",
        )
        self.open_transaction_seconds = gauge(
            "open_transaction_seconds", "For how long the same transaction has been doing so.", "topic", "partition"
        )
        self.retries = counter("retries_total", "Tries repeated because of an outage, by what was away.", "target")
        self.fenced = counter("fenced_total", "Times another replica had taken over.")
        self.rebalances = counter("rebalances_total", "Assignments received.")
        self.gaps = counter("gap_messages_total", "Messages lost to retention and recorded in tickloom.gaps.")
        self.partitions_created = counter("partitions_created_total", "Table partitions made.")
        self.table_partitions = gauge("table_partitions", "Partitions that a table has.", "table")
        self.table_partitions_limit = gauge(
            "table_partitions_limit", "Partitions of which a query over a whole table finds locks enough."
        )
        self.partitions_until = gauge(
            "partitions_until_timestamp_seconds",
            "Unix time up to which a table has its partitions, from now on.",
            "table",
        )
        self.symbols_cached = gauge("symbols_cached", "Symbols whose newest rows are in memory.")
        self.symbols_loaded = counter("symbols_loaded_total", "Symbols whose newest rows were read from Postgres.")
        self.assigned_partitions = gauge("assigned_partitions", "Kafka partitions owned.")
        self.last_progress = gauge("last_progress_timestamp_seconds", "Unix time of the last commit.")
        self.build_info = gauge("build_info", "Always 1; the labels say what runs.", "version", "python", "revision")

    def cpu_by_stage(self) -> dict[str, float]:
        """What ``stage_cpu_seconds`` says so far, in seconds."""
        (family,) = self.stage_cpu_seconds.collect()
        return {
            sample.labels["stage"]: round(sample.value, 3)
            for sample in family.samples
            if sample.name.endswith("_total")
        }


class CpuClock:
    """Turns the CPU clock of a thread that works for one stage into the steps of its counter."""

    def __init__(self, counter: Counter, read: Callable[[], float]) -> None:
        """``read`` gives the seconds so far; what it gives now counts as nothing."""
        self._counter = counter
        self._read = read
        self._seen = read()

    def note(self) -> None:
        """Count what has come since the last time."""
        now = self._read()
        self._counter.inc(now - self._seen)
        self._seen = now
