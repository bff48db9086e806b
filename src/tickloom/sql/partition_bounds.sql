-- $1 a table, $2 the name of a partition of it. Its bounds.
SELECT substring(b.bounds FROM $re$FROM \('([^']+)'\)$re$)::timestamptz AS start,
       substring(b.bounds FROM $re$TO \('([^']+)'\)$re$)::timestamptz AS stop
FROM pg_inherits i
JOIN pg_class c ON c.oid = i.inhrelid
CROSS JOIN LATERAL (SELECT pg_get_expr(c.relpartbound, c.oid) AS bounds) b
WHERE i.inhparent = to_regclass($1) AND c.relname = $2
