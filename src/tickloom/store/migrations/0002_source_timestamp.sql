-- The time of the log at which each row's message was written. It decides between messages of different partitions. A row without
-- it was loaded by a version that did not keep it.
--
-- Migrations run before the output tables are created, so a new database has nothing to alter here. Where the column exists, not
-- even a lock is taken: ALTER … IF NOT EXISTS would lock the table against everybody first.
DO $$
DECLARE
    raw regclass;
BEGIN
    FOREACH raw IN ARRAY ARRAY[to_regclass('stock_prices'), to_regclass('stock_volumes')] LOOP
        IF raw IS NOT NULL AND NOT EXISTS (
            SELECT FROM pg_attribute WHERE attrelid = raw AND attname = 'source_timestamp' AND NOT attisdropped
        ) THEN
            EXECUTE format('ALTER TABLE %s ADD COLUMN source_timestamp timestamptz', raw);
        END IF;
    END LOOP;
END
$$;
