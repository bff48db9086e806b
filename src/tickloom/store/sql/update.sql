-- $1, $2 a run of partitions [from, to). Updates existing rows.
UPDATE {table} t SET {assignments}
FROM (
    {rows}
) r
WHERE t.symbol = r.symbol AND t."timestamp" = r."timestamp" AND t."timestamp" >= $1 AND t."timestamp" < $2
