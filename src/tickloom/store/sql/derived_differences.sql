-- $1, $2 a range of time [from, to), cut at bounds of buckets; $3 limit; $4, $5 the ranges of {table} whose partition was detached;
-- $6, $7 the ranges for which a source has no partition. Returns the differences between {table} and its select, with the columns
-- of verify_slice.sql.
WITH {sources}, expected AS MATERIALIZED (
    SELECT symbol, "timestamp", {values} FROM (
{select}
    ) x
), compared AS (
    SELECT symbol, "timestamp", o.symbol IS NULL AS missing, e.symbol IS NULL AS surplus, {both},
           CASE
               WHEN o.symbol IS NULL AND EXISTS (
                   SELECT FROM unnest($4::timestamptz[], $5::timestamptz[]) AS d (start, stop)
                   WHERE "timestamp" >= start AND "timestamp" < stop
               ) THEN 'detached'
               WHEN EXISTS (
                   SELECT FROM unnest($6::timestamptz[], $7::timestamptz[]) AS h (start, stop)
                   WHERE stop > "timestamp" AND start < "timestamp" + interval '{seconds} s'
               ) THEN 'partial'
               ELSE ''
           END AS doubt
    FROM expected e FULL JOIN (
        SELECT symbol, "timestamp", {names} FROM {table} WHERE "timestamp" >= $1 AND "timestamp" < $2
    ) o USING (symbol, "timestamp")
    WHERE o.symbol IS NULL OR e.symbol IS NULL OR ({kept}) IS DISTINCT FROM ({given})
), differences AS (
    SELECT symbol, "timestamp", 'row' AS "column", CASE WHEN missing THEN 'no row' ELSE 'a row' END AS found,
           CASE WHEN missing THEN 'a row' ELSE 'no row' END AS expected, doubt
    FROM compared WHERE missing OR surplus
    UNION ALL
    SELECT symbol, "timestamp", c.name, c.found, c.expected, doubt
    FROM compared CROSS JOIN LATERAL (VALUES {pairs}) AS c (name, found, expected)
    WHERE NOT missing AND NOT surplus AND c.found IS DISTINCT FROM c.expected
)
SELECT '{table}' AS "table", symbol, to_char("timestamp", 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS "timestamp", "column", found,
       expected, doubt, total
FROM (
    SELECT *, count(*) OVER (PARTITION BY "column", doubt) AS total,
           row_number() OVER (PARTITION BY "column", doubt ORDER BY "timestamp", symbol) AS number
    FROM differences
) x
WHERE number <= greatest($3::bigint, 1)
ORDER BY x."timestamp", symbol, "column"
