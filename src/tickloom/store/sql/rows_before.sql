-- $1 symbols, $2 codes, $3 times, $4 how many of each, $5 and $6 the range [from, to). Its bounds are
-- constants, so Postgres neither plans for nor locks partitions outside. Returns the newest rows of each symbol before its time.
SELECT s.code, t."timestamp", coalesce(t.{value}, 'NaN'), t.source_partition, t.source_offset,
       coalesce(t.source_timestamp, 'epoch'), coalesce(t.{average}, 'NaN')
FROM unnest($1::text[], $2::int[], $3::timestamptz[], $4::bigint[]) AS s (symbol, code, moment, wanted)
CROSS JOIN LATERAL (
    SELECT "timestamp", {value}, {average}, source_partition, source_offset, source_timestamp FROM {table}
    WHERE symbol = s.symbol AND "timestamp" < s.moment
        AND "timestamp" >= $5 AND "timestamp" < $6
    ORDER BY "timestamp" DESC LIMIT s.wanted
) t
