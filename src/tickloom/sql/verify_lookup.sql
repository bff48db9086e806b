                -- $3 - 1 rows of each of the slice's symbols before $1, each found by the index
                SELECT s.symbol, t."timestamp", t.{value}
                FROM (SELECT DISTINCT symbol FROM {table} WHERE "timestamp" >= $1 AND "timestamp" < $2) s
                CROSS JOIN LATERAL (
                    SELECT "timestamp", {value} FROM {table}
                    WHERE symbol = s.symbol AND "timestamp" < $1
                    ORDER BY "timestamp" DESC LIMIT $3 - 1
                ) t
