"""The report of ``verify``: differences by kind, the first of them, and how to fix each. Pure."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from tickloom.core.model import FEEDS, TABLES
from tickloom.store.slices import BEGINNING, END, Span

RAW_TABLES = tuple(feed.table.name for feed in FEEDS.values())
SIDE_OF_AVERAGE = {feed.average: feed.side for feed in FEEDS.values()}


class Kind(NamedTuple):
    """The place of a difference. ``doubt``: why the value may be right after all."""

    table: str
    column: str
    doubt: str = ""

    @property
    def repairable(self) -> bool:
        """Whether ``--repair`` corrects it."""
        if self.table in RAW_TABLES:
            return self.column in SIDE_OF_AVERAGE or self.column == "symbol"
        return not self.table.startswith("tickloom.")


@dataclass(frozen=True, slots=True)
class Difference:
    """One value (or row, or count) that is wrong; numbers as Postgres writes them, times in UTC."""

    table: str
    column: str
    found: str | None
    expected: str | None
    symbol: str | None = None
    timestamp: str | None = None
    topic: str | None = None
    partition: int | None = None

    def __str__(self) -> str:
        where = [self.table, self.symbol and repr(self.symbol), self.timestamp, self.topic, self.partition, self.column]
        named = " ".join(str(part) for part in where if part is not None)
        return f"{named}: found {self.found or 'nothing'}, expected {self.expected or 'nothing'}"


@dataclass(slots=True)
class Report:
    """The outcome of ``verify`` for ``tables``. ``wrong`` and ``left_out`` count differences by kind; ``first`` holds the first of
    the wrong ones. ``repaired``: rows written, by table; None without a repair.
    """

    span: Span
    tables: tuple[str, ...] = tuple(table.name for table in TABLES)
    rows: Counter[str] = field(default_factory=Counter[str])
    wrong: Counter[Kind] = field(default_factory=Counter[Kind])
    left_out: Counter[Kind] = field(default_factory=Counter[Kind])
    first: list[Difference] = field(default_factory=list[Difference])
    repaired: Counter[str] | None = None
    seconds: float = 0.0

    @property
    def remaining(self) -> Counter[Kind]:
        """The differences that exist now; after a repair, those that it cannot correct."""
        return Counter({kind: n for kind, n in self.wrong.items() if self.repaired is None or not kind.repairable})

    def as_dict(self) -> dict[str, Any]:
        def counted(counts: Counter[Kind]) -> list[dict[str, Any]]:
            return [{"table": kind.table, "column": kind.column, "count": n} for kind, n in sorted(counts.items())]

        return {
            "exact": not self.wrong,
            "from": None if self.span.start == BEGINNING else self.span.start.isoformat(),
            "to": None if self.span.stop == END else self.span.stop.isoformat(),
            "rows": {table: self.rows[table] for table in self.tables},
            "differences": counted(self.wrong),
            "first": [asdict(difference) for difference in self.first],
            "left_out": [
                entry | {"why": _DOUBTS[kind.doubt]}
                for kind, entry in zip(sorted(self.left_out), counted(self.left_out), strict=True)
            ],
            "repaired": None if self.repaired is None else {table: self.repaired[table] for table in self.tables},
            "remaining": counted(self.remaining),
            "fixes": self.fixes(),
            "seconds": round(self.seconds, 3),
        }

    def lines(self) -> list[str]:
        """The report for people: a line a table, the first differences, and their fixes."""
        bookkeeping = "every offset is counted; dead letters and gaps are complete"
        lines = [self._line("tickloom", bookkeeping)]
        lines += [self._line(table, f"{self.rows[table]:,} rows, exact") for table in self.tables]
        lines += [f"     {difference}" for difference in self.first]
        if (more := sum(self.wrong.values()) - len(self.first)) > 0:
            lines.append(f"     and {more:,} more")
        for kind, count in sorted(self.left_out.items()):
            lines.append(f"note {kind.table:<22} {kind.column}: {count:,} in doubt: {_DOUBTS[kind.doubt]}")
        if not self.span.everything:
            lines.append(
                "note the ledger has no event times: numbers of rows are compared with it only without --from and --to"
            )
        if self.repaired is not None:
            done = ", ".join(f"{self.repaired[table]:,} of {table}" for table in self.tables)
            lines.append(f"repaired rows: {done}")
        lines += [f"fix  {fix}" for fix in self.fixes()]
        verdict = "exact" if not self.remaining else f"{sum(self.remaining.values()):,} differences"
        return [*lines, f"{verdict}, in {self.seconds:.1f} s"]

    def fixes(self) -> list[str]:
        """The fixes of the differences that remain, each once."""
        return list(dict.fromkeys(_fix(kind) for kind in sorted(self.remaining)))

    def _line(self, table: str, good: str) -> str:
        wrong = [(kind, n) for kind, n in sorted(self.wrong.items()) if kind.table.partition(".")[0] == table]
        if not wrong:
            return f"ok   {table:<22} {good}"
        return f"BAD  {table:<22} {', '.join(f'{_named(kind)}: {n:,} wrong' for kind, n in wrong)}"


_DOUBTS = {
    "short": "their windows reach back to rows that are gone (dropped partitions?)",
    "dropped": "a raw table has no partition there any more",
    "detached": "their partition was detached",
    "partial": "rows that they were computed from are gone (dropped partitions?)",
}


def _named(kind: Kind) -> str:
    schema_name, _, name = kind.table.partition(".")
    return f"{name}.{kind.column}" if schema_name == "tickloom" else kind.column


def _fix(kind: Kind) -> str:
    if kind.column == "symbol":
        return (
            "tickloom.symbols: rows were deleted, or a daemon of a version without this table has run; `tickloom verify "
            "--repair` puts them back; then restart the replicas, which may take these symbols for new ones"
        )
    if kind.repairable:
        return "averages, joined and derived rows: `tickloom verify --repair` computes them again from the raw tables"
    match kind.column:
        case "rows" if kind.table in RAW_TABLES:
            return (
                f"{kind.table}: if it has fewer rows than were stored, and partitions were dropped, give the oldest time that "
                "is kept as --from. Rows deleted by hand come back only from a backup, or by loading the topics into an "
                "empty database. If it has more rows, delete those that did not come from the topic"
            )
        case "source_offset":
            return f"{kind.table}: rows that no message brought; delete them, then `tickloom verify --repair`"
        case "next_offset":
            return (
                "tickloom.offsets: somebody wrote into the ledger; put the row back as it was (a backup has it), or "
                "load the topics into an empty database"
            )
        case "rows":
            return "tickloom.dead_letters: rows were deleted or added; put them back from a backup if you need them"
        case "offsets":
            return "tickloom.gaps: rows were deleted or added; put them back from a backup"
        case _:
            return (
                f"{kind.table}: no message can have brought this {kind.column}; put the message's own value back "
                "(source_partition and source_offset tell where it is), then `tickloom verify --repair`"
            )
