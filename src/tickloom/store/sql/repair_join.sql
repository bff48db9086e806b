-- $1, $2 the slice [from, to); $3 processed_at; $4 whether both raw tables have partitions there: only then is a row without
-- both halves one too many; $5, $6 starts and stops of detached partitions. Returns the number of rows deleted, inserted or changed.
WITH pairs AS MATERIALIZED (
    SELECT symbol, "timestamp", price, volume, price_moving_avg, trading_volume_moving_avg,
           tickloom.ratio(CASE WHEN {possible_prices} THEN price END, CASE WHEN {possible_volumes} THEN volume END) AS ratio
    FROM (
        SELECT symbol, "timestamp", price, price_moving_avg FROM stock_prices WHERE "timestamp" >= $1 AND "timestamp" < $2
    ) p JOIN (
        SELECT symbol, "timestamp", volume, trading_volume_moving_avg FROM stock_volumes
        WHERE "timestamp" >= $1 AND "timestamp" < $2
    ) v USING (symbol, "timestamp")
    WHERE NOT EXISTS (
        SELECT FROM unnest($5::timestamptz[], $6::timestamptz[]) AS d (start, stop)
        WHERE "timestamp" >= start AND "timestamp" < stop
    )
), deleted AS (
    DELETE FROM stock_analytics_data a
    WHERE $4::bool AND a."timestamp" >= $1 AND a."timestamp" < $2
        AND NOT EXISTS (SELECT FROM pairs p WHERE p.symbol = a.symbol AND p."timestamp" = a."timestamp")
    RETURNING 1
), written AS (
    INSERT INTO stock_analytics_data AS a
        (symbol, "timestamp", price, volume, price_moving_avg, trading_volume_moving_avg, price_volume_ratio, processed_at)
    SELECT p.*, $3::timestamptz FROM pairs p
    LEFT JOIN (SELECT * FROM stock_analytics_data WHERE "timestamp" >= $1 AND "timestamp" < $2) a
        USING (symbol, "timestamp")
    WHERE a.symbol IS NULL
        OR (a.price, a.volume, a.price_moving_avg, a.trading_volume_moving_avg, a.price_volume_ratio)
            IS DISTINCT FROM (p.price, p.volume, p.price_moving_avg, p.trading_volume_moving_avg, p.ratio)
    ON CONFLICT (symbol, "timestamp") DO UPDATE SET
        price = excluded.price,
        volume = excluded.volume,
        price_moving_avg = excluded.price_moving_avg,
        trading_volume_moving_avg = excluded.trading_volume_moving_avg,
        price_volume_ratio = excluded.price_volume_ratio,
        processed_at = excluded.processed_at
    RETURNING 1
)
SELECT (SELECT count(*) FROM deleted) + (SELECT count(*) FROM written)
