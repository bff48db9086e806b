-- $1 topics, $2 partitions, $3 the log's first offsets, $4 owner. The row locks wait for the older owner's
-- transaction in flight. After this has committed, the older epoch can write nothing for these partitions.
WITH wanted AS (
    SELECT * FROM unnest($1::text[], $2::int[], $3::bigint[]) AS w (topic, partition, first_offset)
)
INSERT INTO tickloom.offsets AS o (topic, partition, first_offset, next_offset, epoch, owner)
SELECT topic, partition, first_offset, first_offset, 1, $4 FROM wanted ORDER BY topic, partition
ON CONFLICT (topic, partition) DO UPDATE SET epoch = o.epoch + 1, owner = $4, updated_at = now()
RETURNING o.topic, o.partition, o.next_offset, o.epoch, o.newest_timestamp
