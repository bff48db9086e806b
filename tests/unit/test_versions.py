"""Which database versions this tickloom takes, and that a released migration stays what it was."""

import hashlib

import pytest

from tickloom.errors import SchemaMismatch
from tickloom.store.versions import Migration, known_migrations, refuse_newer, refuse_older

KNOWN = (Migration(1, "first", ""), Migration(2, "second", ""))
RELEASED = {
    "0001_bookkeeping.sql": "c3e73cf4859283ee",
    "0002_source_timestamp.sql": "8cb7a3efb5a21441",
    "0003_functions.sql": "23f099d4889243af",
    "0004_outputs.sql": "1ed8a3c8ecc50409",
}
"""The beginning of the SHA-256 of each migration file. Add a line for a new migration; a line that is here never changes."""


def test_versions_count_from_one() -> None:
    """Two migrations of one number, or a missing one, would leave databases of which nobody knows what they hold."""
    assert [migration.version for migration in known_migrations()] == list(range(1, len(known_migrations()) + 1))


def test_released_migrations_are_not_edited() -> None:
    """A database that has applied a migration would never get what was added to it: write a new migration."""
    found = {one.file: hashlib.sha256(one.statements.encode()).hexdigest()[:16] for one in known_migrations()}
    assert found == RELEASED


@pytest.mark.parametrize(
    ("applied", "message"),
    [
        ({}, "the database is at version 0, this tickloom needs 2; run `tickloom migrate`"),
        ({1: "first"}, "the database is at version 1, this tickloom needs 2; run `tickloom migrate`"),
    ],
)
def test_older_databases_are_refused(applied: dict[int, str], message: str) -> None:
    """The daemon would meet missing columns in the middle of a batch."""
    with pytest.raises(SchemaMismatch) as raised:
        refuse_older(applied, KNOWN)
    assert str(raised.value) == message
    refuse_newer(applied, KNOWN)


@pytest.mark.parametrize(
    ("applied", "message"),
    [
        ({1: "first", 2: "second", 3: "third"}, r"newer tickloom \(version 3; this one knows 2\): install"),
        ({1: "first", 2: "other"}, "version 2 of the database is 'other', this tickloom's is 'second'"),
    ],
)
def test_newer_and_other_databases_are_refused(applied: dict[int, str], message: str) -> None:
    """The daemon would write into tables that it does not know."""
    with pytest.raises(SchemaMismatch, match=message):
        refuse_newer(applied, KNOWN)
    refuse_older(applied, KNOWN)


def test_the_newest_database_is_taken() -> None:
    """Nobody could start."""
    refuse_newer({1: "first", 2: "second"}, KNOWN)
    refuse_older({1: "first", 2: "second"}, KNOWN)
