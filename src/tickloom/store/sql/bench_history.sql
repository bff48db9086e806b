-- A stretch of history: for each symbol ($3) one pair an hour, $2 hours from $1 on, as the daemon would have left it.
-- A symbol's values never change, so each average is the value. Offset -1: any message wins over it.
WITH pairs AS MATERIALIZED (
    SELECT symbol, $1::timestamptz + hour * interval '1 hour' AS "timestamp",
        (10 + number % 500)::float8 AS price, (100 * (1 + number % 50))::float8 AS volume
    FROM generate_series(0, $2::int - 1) AS hour,
        unnest($3::text[]) WITH ORDINALITY AS symbols (symbol, number)
), prices AS (
    INSERT INTO stock_prices (symbol, "timestamp", price, open_price, high_price, low_price, price_moving_avg, source_partition, source_offset)
    SELECT symbol, "timestamp", price, price, price, price, price, 0, -1 FROM pairs
), volumes AS (
    INSERT INTO stock_volumes (symbol, "timestamp", volume, trading_volume_moving_avg, source_partition, source_offset)
    SELECT symbol, "timestamp", volume, volume, 0, -1 FROM pairs
), symbols AS (
    INSERT INTO tickloom.symbols (symbol, since) SELECT unnest($3::text[]), $1 ON CONFLICT DO NOTHING
)
INSERT INTO stock_analytics_data
    (symbol, "timestamp", price, volume, price_moving_avg, trading_volume_moving_avg, price_volume_ratio, processed_at)
SELECT symbol, "timestamp", price, volume, price, volume, price / volume, now() FROM pairs
