-- $1, $2 a range of time [from, to), cut at bounds of buckets and of partitions. Recomputes the rows of the keys in
-- pg_temp.{staging}, one by one, each by look-ups in the sources. Deletes the rows of keys for which the select finds none.
WITH fresh AS MATERIALIZED (
    SELECT k.symbol, k."timestamp", s.symbol IS NULL AS gone, {values}
    FROM (
        SELECT * FROM pg_temp.{staging} WHERE "timestamp" >= $1 AND "timestamp" < $2
        LIMIT (SELECT 9223372036854775807)  -- so that the planner expects few keys, and looks each of them up
    ) k
    LEFT JOIN LATERAL (
        WITH {sources}
        SELECT * FROM (
{select}
        ) x
    ) s ON s.symbol = k.symbol AND s."timestamp" = k."timestamp"
), gone AS (
    DELETE FROM {table} o USING fresh f
    WHERE f.gone AND o.symbol = f.symbol AND o."timestamp" = f."timestamp" AND o."timestamp" >= $1 AND o."timestamp" < $2
)
INSERT INTO {table} AS o (symbol, "timestamp", {names})
SELECT symbol, "timestamp", {names} FROM fresh WHERE NOT gone
ON CONFLICT (symbol, "timestamp") DO UPDATE SET {assignments}
WHERE ({kept}) IS DISTINCT FROM ({given})
