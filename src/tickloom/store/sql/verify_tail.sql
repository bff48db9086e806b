-- $1, $2 the slice [from, to); $3 window rows. The last $3 - 1 rows (at least one) of each symbol in it, in order of time.
SELECT symbol, "timestamp", {value} AS value
FROM (
    SELECT symbol, "timestamp", {value}, row_number() OVER (PARTITION BY symbol ORDER BY "timestamp" DESC) AS place
    FROM {table} WHERE "timestamp" >= $1 AND "timestamp" < $2
) o
WHERE place < greatest($3, 2)
ORDER BY symbol, "timestamp"
