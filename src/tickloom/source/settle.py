"""settle: only then the offsets are committed to Kafka, as a courtesy to lag monitors. Never waits, never fails."""

from tickloom.core.model import Batch
from tickloom.source.membership import Member


def settle(member: Member, batch: Batch) -> None:
    """Commit the offsets that the ledger already holds."""
    member.commit({source: step.next_offset for source, step in batch.progress.items()})
