-- Functions of the schema tickloom. A later change of one is a new migration with CREATE OR REPLACE.

-- The names of the tables that make_partitions serves. `migrate` replaces this function where more output tables are declared. It is
-- a function, not a table, because the daemon's role may write into every table of the schema.
CREATE OR REPLACE FUNCTION tickloom.output_tables() RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$SELECT '{stock_analytics_data,stock_prices,stock_volumes}'::text[]$$;

-- Whether ``child`` was once a partition of ``parent``: it has the same primary key and the same columns, except for columns that one of
-- the two got or lost since. Another program's table of that name was not.
CREATE OR REPLACE FUNCTION tickloom.is_detached(parent oid, child oid) RETURNS boolean
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    WITH columns AS (
        SELECT attrelid, attname, atttypid,
               coalesce(attnum = ANY ((SELECT indkey FROM pg_index WHERE indrelid = attrelid AND indisprimary)::smallint[]), false) AS key
        FROM pg_attribute WHERE attrelid IN (parent, child) AND attnum > 0 AND NOT attisdropped
    ), ours AS (
        SELECT attname, atttypid, key FROM columns WHERE attrelid = parent
    ), theirs AS (
        SELECT attname, atttypid, key FROM columns WHERE attrelid = child
    )
    SELECT (SELECT relkind IN ('r', 'p') FROM pg_class WHERE oid = child)
        AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = child AND inhparent = parent AND NOT inhdetachpending)
        AND NOT EXISTS ((SELECT * FROM ours WHERE key) EXCEPT SELECT * FROM theirs)
        AND NOT EXISTS ((SELECT * FROM theirs WHERE key) EXCEPT SELECT * FROM ours)
        AND (NOT EXISTS (SELECT * FROM ours EXCEPT SELECT * FROM theirs)
            OR NOT EXISTS (SELECT * FROM theirs EXCEPT SELECT * FROM ours))
$$;

-- What exists in the place of the partition of ``parent`` for the hour, day or month ``stamp``: the partition ('present'); a table that
-- was detached, of this hour or of its day or month ('detached'); detached tables of a part of it ('beside'); another table of that
-- name ('foreign'); or nothing ('absent').
CREATE OR REPLACE FUNCTION tickloom.partition_state(parent regclass, stamp text) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (WITH named AS (
        SELECT c.oid, length(c.relname) - length(own.relname) - 1 AS digits
        FROM pg_class own JOIN pg_class c ON c.relnamespace = own.relnamespace
        WHERE own.oid = parent AND (
            c.relname IN (own.relname || '_' || stamp, own.relname || '_' || left(stamp, 8), own.relname || '_' || left(stamp, 6))
            -- longer by some digits: the colon sorts after the nine
            OR (c.relname > own.relname || '_' || stamp AND c.relname < own.relname || '_' || stamp || ':')
        )
    ), looked AS (
        SELECT oid, digits,
               EXISTS (SELECT FROM pg_inherits WHERE inhrelid = oid AND NOT inhdetachpending) AND pg_partition_root(oid) = parent AS present
        FROM named
    ), judged AS (
        SELECT digits, present, CASE WHEN present THEN false ELSE tickloom.is_detached(parent, oid) END AS detached FROM looked
    )
    SELECT coalesce(
        (SELECT CASE WHEN present THEN 'present' WHEN NOT detached THEN 'foreign' END FROM judged WHERE digits = length(stamp)),
        (SELECT 'detached' FROM judged WHERE detached AND digits <= length(stamp) LIMIT 1),
        (SELECT 'beside' FROM judged WHERE detached LIMIT 1),
        'absent'
    ));
END
$$;

DROP FUNCTION IF EXISTS tickloom.make_partitions(text, text[], timestamptz[], timestamptz[]);

-- Creates and attaches the partitions of ``parent`` for some hours (2026112410), days (20261124) or months (202611), in UTC. Returns
-- for each stamp 'made', or what exists there (see partition_state), or 'overlaps' where another partition holds a part of it.
-- It runs with the rights of the tables' owner, so that the daemon's role does not need them. Therefore it works only on the owner's own
-- output tables, and derives every name and bound from a stamp.
-- It is one statement, because a replica that fell asleep between two statements would keep the lock. CREATE … PARTITION OF is twice as fast
-- as ATTACH but takes ACCESS EXCLUSIVE on the parent. So it is used only if no other session uses the table at this moment, and it
-- never waits for that lock, because other sessions would queue behind it.
CREATE OR REPLACE FUNCTION tickloom.make_partitions(parent regclass, stamps text[]) RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' SET timezone = 'UTC' SET datestyle = 'ISO' AS $$
DECLARE
    own     record;
    found   text[] := '{}';
    alone   boolean := false;
    what    text;
    stamp   text;
    part    text;
    start   timestamptz;
    bounds  text;
BEGIN
    SELECT relname, nspname, spcname, relowner, relkind INTO own
    FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace LEFT JOIN pg_tablespace t ON t.oid = reltablespace
    WHERE c.oid = parent;
    IF own.relname <> ALL (tickloom.output_tables()) OR own.relkind <> 'p' THEN
        RAISE invalid_parameter_value USING MESSAGE = format('%s is not a partitioned table of tickloom', parent);
    END IF;
    IF own.relowner <> quote_ident(current_user)::regrole THEN
        RAISE insufficient_privilege USING MESSAGE = format(
            'tickloom.make_partitions belongs to another role than %s; ALTER FUNCTION tickloom.make_partitions OWNER TO %s',
            parent, own.relowner::regrole
        );
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('tickloom.partitions'), hashtext(own.relname));
    BEGIN
        EXECUTE format('LOCK TABLE ONLY %I.%I IN ACCESS EXCLUSIVE MODE NOWAIT', own.nspname, own.relname);
        alone := true;
    EXCEPTION WHEN lock_not_available THEN
        NULL;
    END;
    FOREACH stamp IN ARRAY stamps LOOP
        IF stamp !~ '^[0-9]{6}([0-9]{2}){0,2}$' THEN
            RAISE invalid_parameter_value USING MESSAGE = format('%L is not an hour, a day or a month', stamp);
        END IF;
        what := tickloom.partition_state(parent, stamp);
        IF what = 'absent' THEN
            start := make_timestamptz(
                left(stamp, 4)::int, substr(stamp, 5, 2)::int, coalesce(nullif(substr(stamp, 7, 2), ''), '1')::int,
                coalesce(nullif(substr(stamp, 9, 2), ''), '0')::int, 0, 0
            );
            bounds := format('FOR VALUES FROM (%L) TO (%L)', start, start + CASE length(stamp)
                WHEN 10 THEN interval '1 hour' WHEN 8 THEN interval '1 day' ELSE interval '1 month' END);
            part := own.relname || '_' || stamp;
            BEGIN
                IF alone THEN
                    EXECUTE format('CREATE TABLE %I.%I PARTITION OF %I.%I %s', own.nspname, part, own.nspname, own.relname, bounds);
                ELSE
                    EXECUTE format(
                        'CREATE TABLE %I.%I (LIKE %I.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED '
                        'INCLUDING STORAGE INCLUDING INDEXES)%s',
                        own.nspname, part, own.nspname, own.relname, ' TABLESPACE ' || quote_ident(own.spcname)
                    );
                    EXECUTE format(
                        'ALTER TABLE %I.%I ATTACH PARTITION %I.%I %s', own.nspname, own.relname, own.nspname, part, bounds
                    );
                END IF;
                what := 'made';
            EXCEPTION WHEN invalid_object_definition THEN
                what := 'overlaps';
            END;
        END IF;
        found := found || what;
    END LOOP;
    RETURN found;
END
$$;
REVOKE ALL ON FUNCTION tickloom.make_partitions(regclass, text[]) FROM PUBLIC;

-- price / volume as float8: NULL where volume is 0 or the quotient is beyond float8, 0 where it is below the smallest float8. Postgres
-- raises an error for both; scaling by powers of two is exact and detects them beforehand.
CREATE OR REPLACE FUNCTION tickloom.ratio(price float8, volume float8) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN volume = 0 THEN NULL
        -- scaled by 2^600: 2^1024, the first quotient that float8 cannot hold, is 2^424 then
        WHEN abs(volume) < 1e-270 AND abs(price) > 1e-16
            AND abs(price / (volume * 4.149515568880993e180)) >= 4.332296397063773e127 THEN NULL
        -- scaled by 2^200: 2^-1075, half of the smallest float8, is 2^-875 then
        WHEN volume > 1 AND price <> 0 AND abs(price) < 1e-270
            AND abs(price * 1.6069380442589903e60 / volume) <= 3.9696644133184383e-264 THEN 0
        ELSE price / volume
    END
$$;
