-- $1 processed_at. The analytics rows of the noted keys that both sides have.
INSERT INTO stock_analytics_data AS a
    (symbol, "timestamp", price, volume, price_moving_avg, trading_volume_moving_avg, price_volume_ratio, processed_at)
SELECT k.symbol, k."timestamp", p.price, v.volume, p.price_moving_avg, v.trading_volume_moving_avg,
       tickloom.ratio(p.price, v.volume), $1
FROM (SELECT DISTINCT symbol, "timestamp" FROM pg_temp.keys) k
JOIN stock_prices p ON p.symbol = k.symbol AND p."timestamp" = k."timestamp"
JOIN stock_volumes v ON v.symbol = k.symbol AND v."timestamp" = k."timestamp"
ON CONFLICT (symbol, "timestamp") DO UPDATE SET
    price = excluded.price,
    volume = excluded.volume,
    price_moving_avg = excluded.price_moving_avg,
    trading_volume_moving_avg = excluded.trading_volume_moving_avg,
    price_volume_ratio = excluded.price_volume_ratio,
    processed_at = excluded.processed_at
