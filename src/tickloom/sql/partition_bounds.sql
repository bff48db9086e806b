-- $1 a partition. Its bounds.
SELECT substring(b.bounds FROM $re$FROM \('([^']+)'\)$re$)::timestamptz AS start,
       substring(b.bounds FROM $re$TO \('([^']+)'\)$re$)::timestamptz AS stop
FROM pg_class c CROSS JOIN LATERAL (SELECT pg_get_expr(c.relpartbound, c.oid) AS bounds) b
WHERE c.oid = to_regclass(quote_ident($1))
