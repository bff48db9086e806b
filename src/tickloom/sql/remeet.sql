-- $1, $2 a run of partitions [from, to). Analytics rows that are there and change.
UPDATE stock_analytics_data a SET
    price = r.price,
    volume = r.volume,
    price_moving_avg = r.price_moving_avg,
    trading_volume_moving_avg = r.trading_volume_moving_avg,
    price_volume_ratio = r.price_volume_ratio,
    processed_at = r.processed_at
FROM pg_temp.remet r
WHERE a.symbol = r.symbol AND a."timestamp" = r."timestamp"
    AND a."timestamp" >= $1 AND a."timestamp" < $2 AND r."timestamp" >= $1 AND r."timestamp" < $2
