-- Which of the awaited keys ($1 symbols, $2 times, all within [$3, $4]) have their row in {table} by now: their places,
-- from 1. The bounds let Postgres open the partitions of these times only.
SELECT awaited.place FROM unnest($1::text[], $2::timestamptz[]) WITH ORDINALITY AS awaited (symbol, "timestamp", place)
WHERE EXISTS (
    SELECT FROM {table} t
    WHERE t.symbol = awaited.symbol AND t."timestamp" = awaited."timestamp" AND t."timestamp" BETWEEN $3 AND $4
)
