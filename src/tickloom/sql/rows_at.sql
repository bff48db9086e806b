-- As rows_before, but each symbol's row at its time.
SELECT s.code, t."timestamp", coalesce(t.{value}, 'NaN'), t.source_partition, t.source_offset, coalesce(t.{average}, 'NaN')
FROM unnest($1::text[], $2::int[], $3::timestamptz[], $4::bigint[]) AS s (symbol, code, moment, wanted)
JOIN {table} t ON t.symbol = s.symbol AND t."timestamp" = s.moment
WHERE t."timestamp" >= $5 AND t."timestamp" < $6
