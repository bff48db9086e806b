-- $1 cluster, $2 and $3 topics, $4 window rows, $5 and $6 the topics' ids (NULL where the brokers have none), $7 group. Records the
-- values that are not recorded yet, unless the tables were made from another source. Returns the record.
WITH completed AS (
    UPDATE tickloom.source SET
        prices_topic_id = coalesce(prices_topic_id, $5),
        volumes_topic_id = coalesce(volumes_topic_id, $6),
        group_id = coalesce(group_id, $7)
    WHERE (cluster_id, prices_topic, volumes_topic, window_rows) = ($1, $2, $3, $4)
    RETURNING *
), inserted AS (
    INSERT INTO tickloom.source (
        cluster_id, prices_topic, volumes_topic, window_rows, prices_topic_id, volumes_topic_id, group_id
    )
    SELECT $1::text, $2::text, $3::text, $4::int, $5::text, $6::text, $7::text
    WHERE NOT EXISTS (SELECT FROM tickloom.source)
    RETURNING *
)
SELECT * FROM completed
UNION ALL SELECT * FROM inserted
UNION ALL SELECT * FROM tickloom.source WHERE NOT EXISTS (SELECT FROM completed)
