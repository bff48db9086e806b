-- $1, $2 a range of time [from, to), cut at bounds of buckets; $3, $4 the ranges of {table} that stay as they are. Returns the
-- number of rows deleted, inserted or changed.
WITH {sources}, spared AS (
    SELECT * FROM unnest($3::timestamptz[], $4::timestamptz[]) AS h (start, stop)
), expected AS MATERIALIZED (
    SELECT symbol, "timestamp", {values} FROM (
{select}
    ) x
    WHERE NOT EXISTS (SELECT FROM spared WHERE stop > "timestamp" AND start < "timestamp" + interval '{seconds} s')
), existing AS (
    SELECT symbol, "timestamp", {names} FROM {table} WHERE "timestamp" >= $1 AND "timestamp" < $2
), deleted AS (
    DELETE FROM {table} o
    WHERE o."timestamp" >= $1 AND o."timestamp" < $2
        AND NOT EXISTS (SELECT FROM spared WHERE stop > o."timestamp" AND start < o."timestamp" + interval '{seconds} s')
        AND NOT EXISTS (SELECT FROM expected e WHERE e.symbol = o.symbol AND e."timestamp" = o."timestamp")
    RETURNING 1
), written AS (
    INSERT INTO {table} AS o (symbol, "timestamp", {names})
    SELECT e.symbol, e."timestamp", {expected_names} FROM expected e LEFT JOIN existing o USING (symbol, "timestamp")
    WHERE o.symbol IS NULL OR ({kept}) IS DISTINCT FROM ({given})
    ON CONFLICT (symbol, "timestamp") DO UPDATE SET {assignments}
    RETURNING 1
)
SELECT (SELECT count(*) FROM deleted) + (SELECT count(*) FROM written)
