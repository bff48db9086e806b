-- The bookkeeping, and the list of migrations itself.
--
-- IF NOT EXISTS, and the ALTERs after each table, adopt databases from before numbered migrations: they add the parts that such a
-- database lacks, and its data stay. Later migrations need neither, since they know the version that they start from.

DO $$
BEGIN
    IF to_regnamespace('tickloom') IS NULL THEN  -- CREATE SCHEMA IF NOT EXISTS needs CREATE on the database even where it does nothing
        CREATE SCHEMA tickloom;
    END IF;
END
$$;

-- One row for each migration that was applied to this database. The highest version is the version of the tables.
CREATE TABLE IF NOT EXISTS tickloom.migrations (
    version    int         PRIMARY KEY,
    name       text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
-- Every start reads it. A role that got its rights by GRANT … ON ALL TABLES before this table existed has no right to it.
GRANT SELECT ON tickloom.migrations TO PUBLIC;

-- The ledger. Each row is updated with every batch: the fillfactor leaves room on the page, so that these updates stay HOT.
CREATE TABLE IF NOT EXISTS tickloom.offsets (
    topic            text        NOT NULL,
    partition        int         NOT NULL,
    first_offset     bigint      NOT NULL,
    next_offset      bigint      NOT NULL,
    epoch            bigint      NOT NULL DEFAULT 0,
    owner            text,
    stored           bigint      NOT NULL DEFAULT 0,
    superseded       bigint      NOT NULL DEFAULT 0,
    dead             bigint      NOT NULL DEFAULT 0,
    skipped          bigint      NOT NULL DEFAULT 0,
    missing          bigint      NOT NULL DEFAULT 0,
    updated_at       timestamptz NOT NULL DEFAULT now(),
    newest_timestamp timestamptz,  -- the latest timestamp of all records before next_offset; orders messages of different partitions
    PRIMARY KEY (topic, partition)
) WITH (fillfactor = 50);
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

-- Offsets that retention removed from a topic before they were read.
CREATE TABLE IF NOT EXISTS tickloom.gaps (
    topic       text        NOT NULL,
    partition   int         NOT NULL,
    from_offset bigint      NOT NULL,
    to_offset   bigint      NOT NULL,
    noticed_at  timestamptz NOT NULL,
    policy      text        NOT NULL,
    PRIMARY KEY (topic, partition, from_offset)
);

-- What the tables were made from, one row.
CREATE TABLE IF NOT EXISTS tickloom.source (
    cluster_id        text   NOT NULL,
    prices_topic      text   NOT NULL,
    volumes_topic     text   NOT NULL,
    window_rows       int    NOT NULL,
    repairs           bigint NOT NULL DEFAULT 0,  -- transactions of `verify --repair` that changed averages, which a batch may have read before
    group_id          text,  -- the one Kafka group that fills the tables: two would take the partitions from each other for ever
    prices_topic_id   text,  -- Kafka's ids: a topic that was deleted and created again has another
    volumes_topic_id  text
);
ALTER TABLE tickloom.source
    ADD COLUMN IF NOT EXISTS repairs bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS group_id text,
    ADD COLUMN IF NOT EXISTS prices_topic_id text,
    ADD COLUMN IF NOT EXISTS volumes_topic_id text;
-- The table has no key. Without this its row could not be updated in a database that publishes all tables (logical replication).
ALTER TABLE tickloom.source REPLICA IDENTITY FULL;

-- Every symbol that has rows. To learn from the output tables that a symbol has none, each of their partitions would have to be
-- searched. A symbol listed here may have no rows.
CREATE TABLE IF NOT EXISTS tickloom.symbols (
    symbol text COLLATE "C" PRIMARY KEY,
    home   int,         -- the partition number that the symbol belongs to where replicas share the topics
    since  timestamptz  -- no row of the symbol is older, so searches stop there; 'infinity': the symbol has no rows
);
DROP INDEX IF EXISTS tickloom.torn;
ALTER TABLE tickloom.symbols
    ADD COLUMN IF NOT EXISTS since timestamptz,
    ADD COLUMN IF NOT EXISTS home int,
    DROP COLUMN IF EXISTS prices_partition,
    DROP COLUMN IF EXISTS volumes_partition;

-- How replicas share the topics, one row.
CREATE TABLE IF NOT EXISTS tickloom.sharing (
    one                boolean PRIMARY KEY DEFAULT true CHECK (one),
    era                bigint  NOT NULL,  -- counts the changes of this row
    prices_partitions  int     NOT NULL,  -- the partition counts that the replicas know of
    volumes_partitions int     NOT NULL,
    raised             boolean NOT NULL,  -- whether these have ever changed
    alone_since        timestamptz,       -- when one replica began to read everything for that reason
    torn               text               -- a symbol that appeared away from its home
);
