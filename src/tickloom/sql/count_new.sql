-- Of the late rows, how many bring a new key, by partition.
SELECT l.source_partition, count(*) AS stored
FROM pg_temp.late_{side} l
WHERE NOT EXISTS (SELECT FROM {table} t WHERE t.symbol = l.symbol AND t."timestamp" = l."timestamp")
GROUP BY l.source_partition
