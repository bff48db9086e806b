-- $1 symbols, $2 their codes, $3 rows of a tail. The newest rows of each symbol, oldest first.
SELECT s.code, t."timestamp", t.{value}, t.source_partition, t.source_offset
FROM unnest($1::text[], $2::int[]) AS s (symbol, code)
CROSS JOIN LATERAL (
    SELECT "timestamp", {value}, source_partition, source_offset FROM {table}
    WHERE symbol = s.symbol ORDER BY "timestamp" DESC LIMIT $3
) t
ORDER BY s.code, t."timestamp"
