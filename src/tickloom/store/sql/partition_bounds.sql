-- The bounds of the partitions with the oids $1, in the same order, as ``FOR VALUES FROM ('…') TO ('…')``; NULL for one that has gone.
SELECT coalesce(array_agg(pg_get_expr(c.relpartbound, c.oid) ORDER BY number), '{}')
FROM unnest($1::bigint[]) WITH ORDINALITY AS parts (oid, number) LEFT JOIN pg_class c ON c.oid = parts.oid::oid
