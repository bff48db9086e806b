{name} AS (
            SELECT k."timestamp" AS bucket, {columns} FROM {name} r
            WHERE r.symbol = k.symbol AND r."timestamp" >= k."timestamp" AND r."timestamp" < k."timestamp" + interval '{seconds} s'
                AND r."timestamp" >= $1 AND r."timestamp" < $2
            ORDER BY r."timestamp"  -- the order changes the last bits of sums of floats
        )
