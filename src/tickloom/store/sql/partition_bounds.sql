-- $1 oids of partitions. Their bounds, in the same order (NULL where there is none any more), as ``FOR VALUES FROM ('…') TO ('…')``.
SELECT coalesce(array_agg(pg_get_expr(c.relpartbound, c.oid) ORDER BY number), '{}')
FROM unnest($1::bigint[]) WITH ORDINALITY AS parts (oid, number) LEFT JOIN pg_class c ON c.oid = parts.oid::oid
