-- make_partitions runs with the rights of its owner, who must own the tables. The role that migrates may be another one, and the tables
-- may have been given to another owner since.
DO $$
DECLARE
    wanted regrole := (SELECT relowner::regrole FROM pg_class WHERE oid = 'stock_prices'::regclass);
BEGIN
    IF wanted <> (SELECT proowner FROM pg_proc WHERE oid = 'tickloom.make_partitions(regclass, text[])'::regprocedure) THEN
        EXECUTE format('ALTER FUNCTION tickloom.make_partitions(regclass, text[]) OWNER TO %s', wanted);
    END IF;
END
$$
