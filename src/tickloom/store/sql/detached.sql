-- The names of tables that were partitions of table $1, and still have those names.
WITH others AS MATERIALIZED (
    SELECT own.oid AS parent, c.oid AS child, c.relname
    FROM pg_class own JOIN pg_class c ON c.relnamespace = own.relnamespace
    WHERE own.oid = to_regclass($1) AND c.relname > own.relname || '_' AND c.relname < own.relname || '_:'
        AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid AND i.inhparent = own.oid AND NOT i.inhdetachpending)
)
SELECT coalesce(array_agg(relname::text), '{}') FROM others WHERE tickloom.is_detached(parent, child)
