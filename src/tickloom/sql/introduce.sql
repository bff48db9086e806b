-- $1 symbols, ordered, so that replicas do not wait for each other in circles; $2, $3 the partition numbers that a replica
-- claims for their prices and volumes, NULL where it has none; $4 the oldest time of their rows here, NULL where older ones
-- are known of. Of a symbol whose ``since`` is not known it stays so.
INSERT INTO tickloom.symbols AS known (symbol, prices_partition, volumes_partition, since)
SELECT * FROM unnest($1::text[], $2::int[], $3::int[], $4::timestamptz[])
ON CONFLICT (symbol) DO UPDATE SET
    prices_partition = coalesce(excluded.prices_partition, known.prices_partition),
    volumes_partition = coalesce(excluded.volumes_partition, known.volumes_partition),
    since = CASE WHEN known.since IS NOT NULL THEN least(known.since, excluded.since) END
WHERE excluded.prices_partition IS NOT NULL OR excluded.volumes_partition IS NOT NULL OR excluded.since < known.since
