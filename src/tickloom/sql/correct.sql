-- $1, $2 a run of partitions [from, to). Values that a later offset replaces; the keys are known to be there.
UPDATE {table} t SET {assignments}
FROM pg_temp.corrected_{side} excluded
WHERE t.symbol = excluded.symbol AND t."timestamp" = excluded."timestamp"
    AND t."timestamp" >= $1 AND t."timestamp" < $2 AND excluded."timestamp" >= $1 AND excluded."timestamp" < $2
