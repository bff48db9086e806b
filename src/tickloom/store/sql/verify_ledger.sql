-- The places where the bookkeeping contradicts itself: the ledger's sums, and its counts of dead letters and of lost offsets.
WITH letters AS (
    SELECT topic, partition, count(*) AS n FROM tickloom.dead_letters GROUP BY topic, partition
), lost AS (
    SELECT topic, partition, sum(to_offset - from_offset)::bigint AS n FROM tickloom.gaps GROUP BY topic, partition
)
SELECT topic, partition, c."table", c."column", c.found::text, c.expected::text
FROM tickloom.offsets o
FULL JOIN letters USING (topic, partition)
FULL JOIN lost USING (topic, partition)
CROSS JOIN LATERAL (VALUES
    ('tickloom.offsets', 'next_offset', next_offset, first_offset + stored + superseded + dead + skipped + missing),
    ('tickloom.dead_letters', 'rows', coalesce(letters.n, 0), coalesce(dead, 0)),
    ('tickloom.gaps', 'offsets', coalesce(lost.n, 0), coalesce(missing, 0))
) AS c ("table", "column", found, expected)
WHERE c.found IS DISTINCT FROM c.expected
ORDER BY topic, partition, c."table"
