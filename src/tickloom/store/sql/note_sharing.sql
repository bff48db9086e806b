-- $1 era; $2, $3 partition counts of prices and volumes; $4 whether they have ever changed; $5 for how many seconds one
-- replica has been reading everything, or NULL; $6 a torn symbol, or NULL. Stores the present state of sharing.
INSERT INTO tickloom.sharing AS s (era, prices_partitions, volumes_partitions, raised, alone_since, torn)
VALUES ($1, $2, $3, $4, clock_timestamp() - make_interval(secs => $5), $6)
ON CONFLICT (one) DO UPDATE SET
    era = excluded.era,
    prices_partitions = excluded.prices_partitions,
    volumes_partitions = excluded.volumes_partitions,
    raised = excluded.raised,
    alone_since = excluded.alone_since,
    torn = excluded.torn
