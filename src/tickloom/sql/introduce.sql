-- $1 symbols, ordered, so that replicas do not wait for each other in circles; $2, $3 the partition numbers that a replica
-- claims for their prices and volumes, NULL where it has none.
INSERT INTO tickloom.symbols AS known (symbol, prices_partition, volumes_partition)
SELECT * FROM unnest($1::text[], $2::int[], $3::int[])
ON CONFLICT (symbol) DO UPDATE SET
    prices_partition = coalesce(excluded.prices_partition, known.prices_partition),
    volumes_partition = coalesce(excluded.volumes_partition, known.volumes_partition)
WHERE excluded.prices_partition IS NOT NULL OR excluded.volumes_partition IS NOT NULL
