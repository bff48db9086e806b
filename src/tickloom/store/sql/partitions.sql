-- The oids and names of the partitions of table $1.
SELECT coalesce(array_agg(c.oid::bigint), '{}') AS oids, coalesce(array_agg(c.relname::text), '{}') AS names
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = to_regclass($1) AND NOT i.inhdetachpending
