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

-- Makes partitions of ``parent`` and attaches them: for each 'made', 'present' where another replica was faster, or
-- 'foreign' where a table of that name is something else. One statement, for a replica that falls asleep between two
-- would keep the lock. CREATE … PARTITION OF is twice as fast, but takes ACCESS EXCLUSIVE on the parent: it is taken where
-- nobody is at the table, for some milliseconds, and never waited for, or others would wait behind that.
CREATE OR REPLACE FUNCTION tickloom.make_partitions(
    parent text, partitions text[], starts timestamptz[], stops timestamptz[]
) RETURNS text[] LANGUAGE plpgsql SET lock_timeout = '5s' SET timezone = 'UTC' SET datestyle = 'ISO' AS $$
DECLARE
    found   text[] := '{}';
    alone   boolean := false;
    name    text;
    bounds  text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('tickloom.partitions'), hashtext(parent));
    BEGIN
        EXECUTE format('LOCK TABLE ONLY %I IN ACCESS EXCLUSIVE MODE NOWAIT', parent);
        alone := true;
    EXCEPTION WHEN lock_not_available THEN
        NULL;
    END;
    FOR i IN 1 .. cardinality(partitions) LOOP
        name := partitions[i];
        bounds := format('FOR VALUES FROM (%L) TO (%L)', starts[i], stops[i]);
        IF to_regclass(quote_ident(name)) IS NOT NULL THEN
            found := found || CASE
                WHEN pg_partition_root(to_regclass(quote_ident(name))) = to_regclass(quote_ident(parent)) THEN 'present'
                ELSE 'foreign'
            END;
        ELSIF alone THEN
            EXECUTE format('CREATE TABLE %I PARTITION OF %I %s', name, parent, bounds);
            found := found || 'made'::text;
        ELSE
            EXECUTE format(
                'CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING CONSTRAINTS INCLUDING STORAGE '
                'INCLUDING INDEXES)', name, parent
            );
            EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I %s', parent, name, bounds);
            found := found || 'made'::text;
        END IF;
    END LOOP;
    RETURN found;
END
$$;

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
