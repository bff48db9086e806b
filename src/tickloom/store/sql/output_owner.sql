-- make_partitions works with the rights of the owner of stock_prices, so every output must be that role's.
DO $$
DECLARE
    wanted regrole := (SELECT relowner::regrole FROM pg_class WHERE oid = 'stock_prices'::regclass);
BEGIN
    IF wanted <> (SELECT relowner FROM pg_class WHERE oid = '{table}'::regclass) THEN
        EXECUTE format('ALTER TABLE {table} OWNER TO %s', wanted);
    END IF;
END
$$
