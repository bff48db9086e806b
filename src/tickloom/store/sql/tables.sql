-- $1 names of tables. Describes each of them, in this order; kind is NULL if it does not exist. "hides": row-level security applies to
-- this role. "rule": a rule that changes what is written. "unlogged": the table, or a partition of it, that a crash would empty.
-- "filled": a trigger may fill columns in before they are checked.
SELECT wanted.name AS "table", c.relkind::text AS kind, row_security_active(c.oid) AS hides,
    (SELECT min(rulename) FROM pg_rewrite WHERE ev_class = c.oid AND ev_type <> '1') AS rule,
    (
        SELECT min(p.oid::regclass::text)
        FROM (SELECT c.oid UNION ALL SELECT inhrelid FROM pg_inherits WHERE inhparent = c.oid) parts (oid)
        JOIN pg_class p ON p.oid = parts.oid WHERE p.relpersistence = 'u' AND p.relkind = 'r'
    ) AS unlogged,
    EXISTS (  -- of each row (1), before (2) an INSERT (4)
        SELECT FROM pg_trigger WHERE tgrelid = c.oid AND tgtype & 7 = 7 AND tgenabled IN ('O', 'A')
    ) AS filled,
    key.name AS key_name, coalesce(key.good, false) AS key_good, coalesce(key.columns, '{}') AS key_columns
FROM unnest($1::text[]) WITH ORDINALITY AS wanted (name, number)
LEFT JOIN pg_class c ON c.oid = to_regclass(wanted.name)
LEFT JOIN LATERAL (
    SELECT k.conname AS name, i.indisvalid AND NOT k.condeferrable AS good, (
        SELECT array_agg(a.attname::text ORDER BY place)
        FROM unnest(k.conkey) WITH ORDINALITY AS u (number, place)
        JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.number
    ) AS columns
    FROM pg_constraint k JOIN pg_index i ON i.indexrelid = k.conindid
    WHERE k.conrelid = c.oid AND k.contype = 'p'
) key ON true
ORDER BY wanted.number
