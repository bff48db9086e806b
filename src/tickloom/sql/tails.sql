-- $1 symbols, $2 rows of a tail. The newest rows of each symbol, oldest first; code counts the symbols from 0.
SELECT (s.number - 1)::int AS code, t."timestamp", t.{value}, t.source_partition, t.source_offset
FROM unnest($1::text[]) WITH ORDINALITY AS s (symbol, number)
CROSS JOIN LATERAL (
    SELECT "timestamp", {value}, source_partition, source_offset FROM {table}
    WHERE symbol = s.symbol ORDER BY "timestamp" DESC LIMIT $2
) t
ORDER BY s.number, t."timestamp"
