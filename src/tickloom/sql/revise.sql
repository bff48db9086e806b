-- $1, $2 a run of partitions [from, to). Averages of rows whose window a late or corrected row entered.
UPDATE {table} t SET {average} = r.average
FROM pg_temp.revised_{side} r
WHERE t.symbol = r.symbol AND t."timestamp" = r."timestamp"
    AND t."timestamp" >= $1 AND t."timestamp" < $2 AND r."timestamp" >= $1 AND r."timestamp" < $2
