-- $1 symbols, ordered, so that replicas do not wait for each other in circles; $2 the oldest time of their rows in the batch.
-- A ``since`` that is NULL, not known, stays NULL.
INSERT INTO tickloom.symbols AS known (symbol, since)
SELECT * FROM unnest($1::text[], $2::timestamptz[])
ON CONFLICT (symbol) DO UPDATE SET since = excluded.since WHERE excluded.since < known.since
