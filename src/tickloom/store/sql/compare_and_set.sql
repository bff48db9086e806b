-- Moves the ledger of the batch's partitions, where their epoch and next offset are those from which the batch was made.
-- Locks the rows in one order, so that two owners cannot deadlock.
WITH batch AS (
    SELECT * FROM unnest(
        $1::text[], $2::int[], $3::bigint[], $4::bigint[], $5::bigint[],
        $6::timestamptz[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[]
    ) AS b (topic, partition, epoch, expected, next_offset, newest_timestamp, stored, superseded, dead, skipped, missing)
), locked AS (
    SELECT o.topic, o.partition
    FROM tickloom.offsets o JOIN batch b USING (topic, partition)
    WHERE o.epoch = b.epoch AND o.next_offset = b.expected
    ORDER BY topic, partition
    FOR UPDATE OF o
)
UPDATE tickloom.offsets o
SET next_offset = b.next_offset,
    newest_timestamp = b.newest_timestamp,
    stored = o.stored + b.stored,
    superseded = o.superseded + b.superseded,
    dead = o.dead + b.dead,
    skipped = o.skipped + b.skipped,
    missing = o.missing + b.missing,
    updated_at = now()
FROM batch b JOIN locked l USING (topic, partition)
WHERE o.topic = b.topic AND o.partition = b.partition AND o.epoch = b.epoch AND o.next_offset = b.expected
