-- $1 topics, $2 partitions, $3 the offsets that the ledger expects next. The first dead letter or gap that exists at or after
-- those offsets.
SELECT w.topic, w.partition, found."table", found."offset"
FROM unnest($1::text[], $2::int[], $3::bigint[]) AS w (topic, partition, next_offset)
CROSS JOIN LATERAL (
    SELECT 'tickloom.dead_letters' AS "table", min(d."offset") AS "offset" FROM tickloom.dead_letters d
    WHERE d.topic = w.topic AND d.partition = w.partition AND d."offset" >= w.next_offset
    UNION ALL
    SELECT 'tickloom.gaps', min(g.from_offset) FROM tickloom.gaps g
    WHERE g.topic = w.topic AND g.partition = w.partition AND g.from_offset >= w.next_offset
) found
WHERE found."offset" IS NOT NULL
ORDER BY w.topic, w.partition
LIMIT 1
