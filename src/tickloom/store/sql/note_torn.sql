-- $1 the era in which symbol $2 appeared away from home; a later era already takes that into account. If the partition
-- counts have ever changed, one replica reads everything from now on; otherwise no replica can share.
UPDATE tickloom.sharing SET
    era = era + 1,
    alone_since = CASE WHEN raised THEN clock_timestamp() END,
    torn = CASE WHEN NOT raised THEN $2 END
WHERE era = $1
