-- $1, $2 a run of partitions [from, to). Values that a later offset replaces; the keys are known to be there.
-- The LIMIT is none, but lets the planner expect few rows: it then looks each of them up. Without statistics it takes the
-- range of a whole partition for half a percent of it, and might look through all staged rows for each row of the table.
UPDATE {table} t SET {assignments}
FROM (
    SELECT * FROM pg_temp.corrected_{side} WHERE "timestamp" >= $1 AND "timestamp" < $2 LIMIT (SELECT 9223372036854775807)
) excluded
WHERE t.symbol = excluded.symbol AND t."timestamp" = excluded."timestamp" AND t."timestamp" >= $1 AND t."timestamp" < $2
