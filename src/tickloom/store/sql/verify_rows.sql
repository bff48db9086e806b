    -- One side's rows in the slice [$1, $2), each with the average that it must have. Windows reach back over the slice's
    -- start, to the W-1 rows ($3 is W) of each symbol before it, which are parameters. "short": the table has fewer than W
    -- rows for this window. A value that no message can have is left out of the sums, because it could make them fail.
    SELECT symbol, "timestamp", value, number, kept, average, short, source_partition, source_offset
    FROM (
        SELECT r.*, avg(number) OVER w AS average, count(*) OVER w < $3 AS short
        FROM (
            SELECT symbol, "timestamp", {value} AS value, CASE WHEN {possible} THEN {value} END AS number,
                   {average} AS kept, source_partition, source_offset, true AS inside
            FROM {table} WHERE "timestamp" >= $1 AND "timestamp" < $2
            UNION ALL
            SELECT symbol, "timestamp", NULL, CASE WHEN {possible} THEN {value} END, NULL, NULL, NULL, false
            FROM unnest({before}) AS b (symbol, "timestamp", {value})
        ) r
        WINDOW w AS (PARTITION BY symbol ORDER BY "timestamp" ROWS BETWEEN $3 - 1 PRECEDING AND CURRENT ROW)
    ) x
    WHERE inside
