-- $1 window rows. The averages of the seeds and of the W-1 rows after each, from the table itself (the sum runs
-- from the oldest row on, as in avg() OVER); notes the keys, whose analytics rows change too.
WITH affected AS MATERIALIZED (
    SELECT DISTINCT s.symbol, f."timestamp"
    FROM pg_temp.seeds_{side} s
    CROSS JOIN LATERAL (
        SELECT t."timestamp" FROM {table} t
        WHERE t.symbol = s.symbol AND t."timestamp" >= s."timestamp"
        ORDER BY t."timestamp" LIMIT $1
    ) f
), fresh AS MATERIALIZED (
    SELECT a.symbol, a."timestamp", m.average
    FROM affected a
    CROSS JOIN LATERAL (
        SELECT avg(w.{value} ORDER BY w."timestamp") AS average
        FROM (
            SELECT t.{value}, t."timestamp" FROM {table} t
            WHERE t.symbol = a.symbol AND t."timestamp" <= a."timestamp"
            ORDER BY t."timestamp" DESC LIMIT $1
        ) w
    ) m
), updated AS (
    UPDATE {table} t SET {average} = f.average
    FROM fresh f
    WHERE t.symbol = f.symbol AND t."timestamp" = f."timestamp"
)
INSERT INTO pg_temp.keys (symbol, "timestamp") SELECT symbol, "timestamp" FROM affected
