-- $1, $2 a run of partitions [from, to). Averages of rows whose window a late or corrected row entered.
-- The LIMIT is none, but lets the planner expect few rows: it then looks each of them up. Without statistics it takes the
-- range of a whole partition for half a percent of it, and might look through all staged rows for each row of the table.
UPDATE {table} t SET {average} = r.average
FROM (
    SELECT * FROM pg_temp.revised_{side} WHERE "timestamp" >= $1 AND "timestamp" < $2 LIMIT (SELECT 9223372036854775807)
) r
WHERE t.symbol = r.symbol AND t."timestamp" = r."timestamp" AND t."timestamp" >= $1 AND t."timestamp" < $2
