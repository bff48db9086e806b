-- $1 names of tables. All their columns. "required": a row without a value for it is refused.
SELECT wanted.name AS "table", a.attname::text AS name, format_type(a.atttypid, a.atttypmod) AS type,
    o.collname::text AS "collation", a.attnotnull AS not_null, a.attgenerated::text AS generated,
    a.attidentity <> '' AS identity,
    (a.attnotnull OR t.typnotnull) AND NOT a.atthasdef AND a.attidentity = '' AND t.typdefault IS NULL AS required
FROM unnest($1::text[]) AS wanted (name)
JOIN pg_attribute a ON a.attrelid = to_regclass(wanted.name) AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_collation o ON o.oid = a.attcollation
