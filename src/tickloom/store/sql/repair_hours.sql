-- The hours, in µs since 1970, of the slice [$1, $2) in which both sides have a row with the same key.
SELECT DISTINCT floor(extract(epoch FROM p."timestamp") / 3600)::bigint * 3600000000 AS hour
FROM stock_prices p JOIN stock_volumes v USING (symbol, "timestamp")
WHERE p."timestamp" >= $1 AND p."timestamp" < $2 AND v."timestamp" >= $1 AND v."timestamp" < $2
