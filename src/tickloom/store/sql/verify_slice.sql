-- $1, $2 the slice [from, to); $3 window rows; $4 topic of prices, $5 of volumes; $6 whether both raw tables have
-- partitions there; $7 limit; $8 to $10 the rows of prices before the slice (symbols, times, values), $11 to $13 those
-- of volumes; $14, $15 the starts and stops of detached partitions of joined rows. Returns the differences: for each table, column
-- and doubt the first rows by time, and their total. A doubt is a reason why a row may be right after all; the caller decides.
WITH prices AS MATERIALIZED (
{prices}
), volumes AS MATERIALIZED (
{volumes}
), raw AS NOT MATERIALIZED (
    SELECT 'stock_prices' AS "table", 'price' AS value_name, 'price_moving_avg' AS average_name, $4::text AS topic,
           symbol, "timestamp", value, number, kept, average, short, source_partition, source_offset FROM prices
    UNION ALL
    SELECT 'stock_volumes', 'volume', 'trading_volume_moving_avg', $5::text,
           symbol, "timestamp", value, number, kept, average, short, source_partition, source_offset FROM volumes
), joined AS (
    SELECT symbol, "timestamp", a.symbol IS NULL AS missing, p.symbol IS NULL AS surplus,
           a.price, a.volume, a.price_moving_avg, a.trading_volume_moving_avg, a.price_volume_ratio,
           p.price AS real_price, p.volume AS real_volume, p.ratio AS real_ratio,
           p.price_average, p.price_kept, p.price_short, p.volume_average, p.volume_kept, p.volume_short
    FROM (
        SELECT symbol, "timestamp", p.value AS price, v.value AS volume, tickloom.ratio(p.number, v.number) AS ratio,
               p.average AS price_average, p.kept AS price_kept, p.short AS price_short,
               v.average AS volume_average, v.kept AS volume_kept, v.short AS volume_short
        FROM prices p JOIN volumes v USING (symbol, "timestamp")
    ) p
    FULL JOIN (
        SELECT * FROM stock_analytics_data WHERE "timestamp" >= $1 AND "timestamp" < $2
    ) a USING (symbol, "timestamp")
    WHERE p.symbol IS NULL OR a.symbol IS NULL
        OR (a.price, a.volume, a.price_moving_avg, a.trading_volume_moving_avg, a.price_volume_ratio)
            IS DISTINCT FROM (p.price, p.volume, p.price_average, p.volume_average, p.ratio)
), differences AS (
    SELECT "table", symbol, "timestamp", average_name AS "column", kept::text AS found, average::text AS expected,
           CASE WHEN short THEN 'short' ELSE '' END AS doubt
    FROM raw WHERE kept IS DISTINCT FROM average
    UNION ALL
    SELECT "table", symbol, "timestamp", value_name, value::text, 'a number that a message can have', ''
    FROM raw WHERE number IS NULL
    UNION ALL
    SELECT "table", symbol, "timestamp", 'source_offset', source_offset::text,
           coalesce(o.first_offset || ' to ' || o.next_offset - 1, 'a partition that the ledger knows'), ''
    FROM raw LEFT JOIN tickloom.offsets o ON o.topic = raw.topic AND o.partition = source_partition
    WHERE (source_offset >= o.first_offset AND source_offset < o.next_offset) IS NOT TRUE
    UNION ALL
    SELECT "table", symbol, "timestamp", 'symbol', 'a row', 'none: it is not in tickloom.symbols', ''
    FROM raw LEFT JOIN tickloom.symbols known USING (symbol) WHERE known.symbol IS NULL
    UNION ALL
    SELECT 'stock_analytics_data', symbol, "timestamp", 'row', CASE WHEN missing THEN 'no row' ELSE 'a row' END,
           CASE WHEN missing THEN 'a row' ELSE 'no row' END, CASE
               WHEN surplus AND NOT $6::bool THEN 'dropped'
               WHEN missing AND EXISTS (
                   SELECT FROM unnest($14::timestamptz[], $15::timestamptz[]) AS d (start, stop)
                   WHERE "timestamp" >= start AND "timestamp" < stop
               ) THEN 'detached'
               ELSE ''
           END
    FROM joined WHERE missing OR surplus
    UNION ALL
    SELECT 'stock_analytics_data', symbol, "timestamp", c.name, c.found::text, c.expected::text,
           CASE WHEN c.short AND c.found IS NOT DISTINCT FROM c.kept THEN 'short' ELSE '' END
    FROM joined CROSS JOIN LATERAL (VALUES
        ('price', price, real_price, NULL, false),
        ('volume', volume, real_volume, NULL, false),
        ('price_moving_avg', price_moving_avg, price_average, price_kept, price_short),
        ('trading_volume_moving_avg', trading_volume_moving_avg, volume_average, volume_kept, volume_short),
        ('price_volume_ratio', price_volume_ratio, real_ratio, NULL, false)
    ) AS c (name, found, expected, kept, short)
    WHERE NOT missing AND NOT surplus AND c.found IS DISTINCT FROM c.expected
)
SELECT "table", symbol, to_char("timestamp", 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS "timestamp", "column", found, expected,
       doubt, total
FROM (
    SELECT *, count(*) OVER (PARTITION BY "table", "column", doubt) AS total,
           row_number() OVER (PARTITION BY "table", "column", doubt ORDER BY "timestamp", symbol) AS number
    FROM differences
) x
WHERE number <= greatest($7::bigint, 1)
ORDER BY x."timestamp", symbol, "table", "column"
