"""Everything that Postgres holds: the ledger, the tables and their partitions, and how they are written, read and verified."""
