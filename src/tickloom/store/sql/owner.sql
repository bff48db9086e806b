-- make_partitions works with the rights of its owner, who must be the tables': whoever migrates need not be.
DO $$
DECLARE
    wanted regrole := (SELECT relowner::regrole FROM pg_class WHERE oid = 'stock_prices'::regclass);
BEGIN
    IF wanted <> (SELECT proowner FROM pg_proc WHERE oid = 'tickloom.make_partitions(regclass, text[])'::regprocedure) THEN
        EXECUTE format('ALTER FUNCTION tickloom.make_partitions(regclass, text[]) OWNER TO %s', wanted);
    END IF;
END
$$
