-- $1, $2 a range of time [from, to), cut at bounds of buckets. Returns the buckets in which {table} should have rows.
WITH {sources}
SELECT DISTINCT "timestamp" FROM (
{select}
) x
