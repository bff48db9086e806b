-- $1 the era in which symbol $2 was met away from home; in a later one it is known already. Where partitions were once
-- added, one replica reads everything from now on; else no replica can share.
UPDATE tickloom.sharing SET
    era = era + 1,
    alone_since = CASE WHEN raised THEN clock_timestamp() END,
    torn = CASE WHEN NOT raised THEN $2 END
WHERE era = $1
