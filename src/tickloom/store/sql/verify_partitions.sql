-- The partitions of the tables $1 (the table itself if it has none), with bounds (NULL for a table itself) and bytes.
SELECT wanted.name AS "table", c.oid::regclass::text AS name, pg_relation_size(c.oid) AS size,
       substring(b.bounds FROM $re$FROM \('([^']+)'\)$re$)::timestamptz AS start,
       substring(b.bounds FROM $re$TO \('([^']+)'\)$re$)::timestamptz AS stop
FROM unnest($1::text[]) AS wanted (name)
JOIN pg_class parent ON parent.oid = to_regclass(wanted.name)
LEFT JOIN pg_inherits i ON i.inhparent = parent.oid AND NOT i.inhdetachpending
JOIN pg_class c ON c.oid = CASE WHEN parent.relkind = 'p' THEN i.inhrelid ELSE parent.oid END
CROSS JOIN LATERAL (SELECT pg_get_expr(c.relpartbound, c.oid) AS bounds) b
