-- Late rows into the table; of two rows with one key the higher (offset, partition) wins.
INSERT INTO {table} AS t ({columns})
SELECT {columns} FROM pg_temp.late_{side}
ON CONFLICT (symbol, "timestamp") DO UPDATE SET {assignments}
WHERE (excluded.source_offset, excluded.source_partition) > (t.source_offset, t.source_partition)
