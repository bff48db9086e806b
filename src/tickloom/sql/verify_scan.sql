                -- $3 - 1 rows of each of the slice's symbols before $1, by one scan of all that is older
                SELECT symbol, "timestamp", {value}
                FROM (
                    SELECT symbol, "timestamp", {value},
                           row_number() OVER (PARTITION BY symbol ORDER BY "timestamp" DESC) AS place
                    FROM {table}
                    WHERE "timestamp" < $1
                        AND symbol IN (SELECT symbol FROM {table} WHERE "timestamp" >= $1 AND "timestamp" < $2)
                ) o
                WHERE place < $3
