-- $1, $2 a run of partitions [from, to). Analytics rows that are there and change.
-- The LIMIT is none, but lets the planner expect few rows: it then looks each of them up. Without statistics it takes the
-- range of a whole partition for half a percent of it, and might look through all staged rows for each row of the table.
UPDATE stock_analytics_data t SET 
    price = r.price,
    volume = r.volume,
    price_moving_avg = r.price_moving_avg,
    trading_volume_moving_avg = r.trading_volume_moving_avg,
    price_volume_ratio = r.price_volume_ratio,
    processed_at = r.processed_at
FROM (
    SELECT * FROM pg_temp.remet WHERE "timestamp" >= $1 AND "timestamp" < $2 LIMIT (SELECT 9223372036854775807)
) r
WHERE t.symbol = r.symbol AND t."timestamp" = r."timestamp" AND t."timestamp" >= $1 AND t."timestamp" < $2
