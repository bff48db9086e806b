"""Every error of the project. Its class says who must act next, and its message ends with the fix.

====================  =====================================  =================
error                 who acts                               exit code
====================  =====================================  =================
``Mistake``           a person (settings, rights, schema)    2
``SourceUnavailable`` the retry loop (Kafka is away)         never leaves run
``SourceRefuses``     a person, while the retry loop waits   2 at the start
``StoreUnavailable``  the retry loop (Postgres is away)      never leaves run
``DataRefused``       the careful writer (finds the rows)    never leaves run
``Fenced``            the daemon (drops its state, rejoins)  never leaves run
====================  =====================================  =================
"""

from typing import Self


class TickloomError(Exception):
    """Base of all errors that are raised on purpose. Anything else is a bug and ends with exit code 1, too."""

    exit_code = 1


class Mistake(TickloomError):
    """A person must fix it; a restart changes nothing."""

    exit_code = 2


class SettingsError(Mistake):
    """A setting is missing, malformed or contradicts another."""


class SchemaMismatch(Mistake):
    """The tables are not those that this version writes: one is missing, has other columns, or denies a right."""


class NotAllowed(SchemaMismatch):
    """The role lacks a right that its statement needs."""


class WrongSource(Mistake):
    """The tables were made from another cluster, other topics or another window."""


class NotCopartitioned(Mistake):
    """This replica cannot see both halves of a symbol: the topics' partition counts or keys do not allow replicas."""

    @classmethod
    def torn(cls, symbol: str) -> Self:
        """The halves of ``symbol`` belong to different replicas."""
        return cls(
            f"symbol {symbol!r} comes in two partitions, so several replicas cannot share the topics; "
            f"run one replica, or key the messages of both topics by symbol with the same partitioner"
        )


class LogLost(Mistake):
    """Offsets that the ledger expects are gone from the topic: retention deleted them, or the topic was recreated."""


class LedgerLost(Mistake):
    """The ledger does not know offsets whose rows or dead letters exist: somebody has changed it."""


class TooManyRejects(Mistake):
    """Most of the recent messages are bad, or are refused: the stream, or a table, is not what the settings say it is."""


class TopicMissing(Mistake):
    """A topic does not exist."""


class SourceUnavailable(TickloomError):
    """Kafka cannot be reached, or refuses for the moment; the caller waits and tries again."""


class SourceRefuses(SourceUnavailable):
    """Kafka refuses the password or the certificate, or the client lacks a right.

    At the start it is a mistake. Later it means that somebody has changed the access of a running daemon, which waits until
    the access is restored.
    """


class StoreUnavailable(TickloomError):
    """Postgres cannot be reached, or refuses for the moment; the caller waits and tries the same again."""


class Garbled(StoreUnavailable):
    """Postgres, or a pooler in front of it, could not read the bytes that it received, or failed internally.

    The reason is an outage, or a column whose type is not the one that we send.
    """


class LockHeld(StoreUnavailable):
    """Another session holds a lock for longer than we wait."""


class LocksExhausted(StoreUnavailable):
    """The server's table of locks is full. Waiting helps only if other sessions fill it."""


class PartitionMissing(StoreUnavailable):
    """A row has no partition, and this role may not create one: somebody else must."""


class DataRefused(TickloomError):
    """Postgres refuses a value (SQLSTATE class 22 or 23); the whole transaction is rolled back."""


class Fenced(TickloomError):
    """Another owner has taken a partition over: nothing was written, and all state must be dropped."""


class StateSpoilt(TickloomError):
    """Memory no longer mirrors the tables; the session starts over from the ledger."""


class RowsVanished(StateSpoilt):
    """Rows that were read no longer exist: somebody has dropped, detached or deleted them."""


class RowsRefused(StateSpoilt):
    """Postgres refuses a value of a batch; a careful session must find the row."""


class Undecided(StateSpoilt):
    """Postgres refuses nearly all rows of a small batch: more rows will show whether they or the table are to blame."""


class AwayFromHome(StateSpoilt):
    """A symbol arrives in a partition number other than its own; the replicas decide again which partitions each one reads."""


class StandBy(TickloomError):
    """Another replica reads everything, so this one reads nothing until the sharing ``era`` ends."""

    def __init__(self, era: int) -> None:
        super().__init__("standing by: another replica reads all partitions until the topics can be shared again")
        self.era = era


class TooWide(StateSpoilt):
    """A batch of ``messages`` touches more partitions than a transaction may lock; half as many messages may fit."""

    def __init__(self, messages: int) -> None:
        super().__init__(f"a batch of {messages} messages touches too many partitions")
        self.messages = messages
