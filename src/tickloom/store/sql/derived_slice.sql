{name} AS (
    SELECT date_bin('{seconds} s', r."timestamp", timestamptz 'epoch') AS bucket, {columns} FROM {name} r
    WHERE r."timestamp" >= $1 AND r."timestamp" < $2
    ORDER BY r.symbol, bucket, r."timestamp"  -- the order changes the last bits of sums of floats
)
