"""settle: only then the offsets are committed to Kafka, as a courtesy to lag monitors. Never waits, never fails."""

from tickloom.membership import Member
from tickloom.model import Batch


def settle(member: Member, batch: Batch) -> None:
    """Commit the offsets that the ledger already holds."""
    member.commit({source: step.next_offset for source, step in batch.progress.items()})
