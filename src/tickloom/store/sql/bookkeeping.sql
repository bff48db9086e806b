CREATE SCHEMA IF NOT EXISTS tickloom;

CREATE TABLE IF NOT EXISTS tickloom.offsets (
    topic        text        NOT NULL,
    partition    int         NOT NULL,
    first_offset bigint      NOT NULL,
    next_offset  bigint      NOT NULL,
    epoch        bigint      NOT NULL DEFAULT 0,
    owner        text,
    stored       bigint      NOT NULL DEFAULT 0,
    superseded   bigint      NOT NULL DEFAULT 0,
    dead         bigint      NOT NULL DEFAULT 0,
    skipped      bigint      NOT NULL DEFAULT 0,
    missing      bigint      NOT NULL DEFAULT 0,
    updated_at   timestamptz NOT NULL DEFAULT now(),
    newest_timestamp timestamptz,
    PRIMARY KEY (topic, partition)
) WITH (fillfactor = 50);  -- updated with every batch: room for it on the page keeps the updates HOT
-- The latest timestamp of all records before next_offset. Between partitions it decides which message is the later one.
ALTER TABLE tickloom.offsets ADD COLUMN IF NOT EXISTS newest_timestamp timestamptz;

CREATE TABLE IF NOT EXISTS tickloom.dead_letters (
    topic            text        NOT NULL,
    partition        int         NOT NULL,
    "offset"         bigint      NOT NULL,
    key              bytea,
    value            bytea,
    headers          jsonb       NOT NULL,
    record_timestamp timestamptz,
    reason           text        NOT NULL,
    detail           text        NOT NULL,
    rejected_at      timestamptz NOT NULL,
    replayed_at      timestamptz,
    PRIMARY KEY (topic, partition, "offset")
);

CREATE TABLE IF NOT EXISTS tickloom.gaps (
    topic       text        NOT NULL,
    partition   int         NOT NULL,
    from_offset bigint      NOT NULL,
    to_offset   bigint      NOT NULL,
    noticed_at  timestamptz NOT NULL,
    policy      text        NOT NULL,
    PRIMARY KEY (topic, partition, from_offset)
);

CREATE TABLE IF NOT EXISTS tickloom.source (
    cluster_id    text NOT NULL,
    prices_topic  text NOT NULL,
    volumes_topic text NOT NULL,
    window_rows   int  NOT NULL,
    repairs       bigint NOT NULL DEFAULT 0,
    group_id      text
);
-- How many transactions of ``verify --repair`` have changed averages, which batches may have read before.
ALTER TABLE tickloom.source ADD COLUMN IF NOT EXISTS repairs bigint NOT NULL DEFAULT 0;
-- The one Kafka group that fills the tables: two would take the partitions from each other for ever.
ALTER TABLE tickloom.source ADD COLUMN IF NOT EXISTS group_id text;
-- Kafka's ids: a topic that is deleted and made anew has another.
ALTER TABLE tickloom.source ADD COLUMN IF NOT EXISTS prices_topic_id text;
ALTER TABLE tickloom.source ADD COLUMN IF NOT EXISTS volumes_topic_id text;
-- It has no key: where somebody publishes all tables (logical replication), its row could not be updated else.
ALTER TABLE tickloom.source REPLICA IDENTITY FULL;

-- Every symbol that has rows: to find out in the tables that one has none would take a look into each of their
-- partitions. Some may have none. No row of a symbol is older than ``since``, where that is given, so that nobody looks for one
-- there, either; of one whose ``since`` is infinite there is none. ``home``: the partition number that it belongs to where replicas
-- share the topics.
CREATE TABLE IF NOT EXISTS tickloom.symbols (
    symbol text COLLATE "C" PRIMARY KEY,
    home   int,
    since  timestamptz
);
ALTER TABLE tickloom.symbols ADD COLUMN IF NOT EXISTS since timestamptz;
ALTER TABLE tickloom.symbols ADD COLUMN IF NOT EXISTS home int;
DROP INDEX IF EXISTS tickloom.torn;
ALTER TABLE tickloom.symbols DROP COLUMN IF EXISTS prices_partition, DROP COLUMN IF EXISTS volumes_partition;

-- How replicas share the topics, one row: the partition counts that they know of, whether these have ever changed, since when
-- one of them reads everything for that, a symbol that was met away from home, and the number of changes to all that.
CREATE TABLE IF NOT EXISTS tickloom.sharing (
    one                boolean PRIMARY KEY DEFAULT true CHECK (one),
    era                bigint  NOT NULL,
    prices_partitions  int     NOT NULL,
    volumes_partitions int     NOT NULL,
    raised             boolean NOT NULL,
    alone_since        timestamptz,
    torn               text
);

-- Whether ``child`` was a partition of ``parent`` once: it has its primary key, and its columns, but for some that either
-- got or lost since. Somebody else's table of that name is none.
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

-- What stands where the partition of ``parent`` for the hour, day or month ``stamp`` would: it itself ('present'); one that was
-- detached, or that of its day or month ('detached'); detached ones of a part of it ('beside'); 'foreign', another table of
-- that name; or 'absent'.
CREATE OR REPLACE FUNCTION tickloom.partition_state(parent regclass, stamp text) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (WITH named AS (
        SELECT c.oid, length(c.relname) - length(own.relname) - 1 AS digits
        FROM pg_class own JOIN pg_class c ON c.relnamespace = own.relnamespace
        WHERE own.oid = parent AND (
            c.relname IN (own.relname || '_' || stamp, own.relname || '_' || left(stamp, 8), own.relname || '_' || left(stamp, 6))
            -- longer by some digits; the colon comes after the nine
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

-- Makes the partitions of ``parent`` for some hours (2026112410), days (20261124) or months (202611), in UTC, and attaches them: for
-- each 'made', or what else is there (see partition_state), or 'overlaps', where a partition has a part of it. It works with the rights of
-- the tables' owner, so that the daemon's role need not have them: so only on the owner's own three tables, and with
-- no name or bound but those that follow from a stamp.
-- One statement, for a replica that falls asleep between two
-- would keep the lock. CREATE … PARTITION OF is twice as fast, but takes ACCESS EXCLUSIVE on the parent: it is taken where
-- nobody is at the table, for some milliseconds, and never waited for, or others would wait behind that.
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
    IF own.relname NOT IN ('stock_prices', 'stock_volumes', 'stock_analytics_data') OR own.relkind <> 'p' THEN
        RAISE invalid_parameter_value USING MESSAGE = format('%s is no partitioned table of tickloom', parent);
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
            RAISE invalid_parameter_value USING MESSAGE = format('%L is no hour, day or month', stamp);
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

-- price / volume as float8: NULL where volume is 0 or the quotient is beyond float8, 0 where it is below the
-- least float8. Postgres raises on both instead; scaling by powers of two is exact and finds them beforehand.
CREATE OR REPLACE FUNCTION tickloom.ratio(price float8, volume float8) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN volume = 0 THEN NULL
        -- scaled by 2^600: 2^1024, the first quotient that float8 cannot hold, is 2^424 then
        WHEN abs(volume) < 1e-270 AND abs(price) > 1e-16
            AND abs(price / (volume * 4.149515568880993e180)) >= 4.332296397063773e127 THEN NULL
        -- scaled by 2^200: 2^-1075, half of the least float8, is 2^-875 then
        WHEN volume > 1 AND price <> 0 AND abs(price) < 1e-270
            AND abs(price * 1.6069380442589903e60 / volume) <= 3.9696644133184383e-264 THEN 0
        ELSE price / volume
    END
$$;
