-- $1 a table. The names of its partitions.
SELECT coalesce(array_agg(c.relname::text), '{}')
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = to_regclass($1) AND NOT i.inhdetachpending
