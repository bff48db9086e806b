-- $1 a table. Its partitions, whether they hold anything, and the bounds of those that do not bear the names that we give.
SELECT c.relname AS name, pg_relation_size(c.oid) > 0 AS filled,
       substring(b.bounds FROM $re$FROM \('([^']+)'\)$re$)::timestamptz AS start,
       substring(b.bounds FROM $re$TO \('([^']+)'\)$re$)::timestamptz AS stop
FROM pg_inherits i
JOIN pg_class c ON c.oid = i.inhrelid
CROSS JOIN LATERAL (
    SELECT CASE WHEN c.relname !~ '_([0-9]{6}|[0-9]{8}|[0-9]{10})$' THEN pg_get_expr(c.relpartbound, c.oid) END AS bounds
) b
WHERE i.inhparent = to_regclass($1) AND NOT i.inhdetachpending
