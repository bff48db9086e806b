-- $1, $2 the slice [from, to); $3 window rows; $4 whether the table holds every row that the ledger stored: only then is a
-- window of fewer rows than W the symbol's beginning; otherwise its older rows may have been dropped. $5 to $7 the rows before
-- the slice: symbols, times, values.
WITH rows AS MATERIALIZED (
{rows}
)
UPDATE {table} t SET {average} = r.average
FROM rows r
WHERE t.symbol = r.symbol AND t."timestamp" = r."timestamp" AND t."timestamp" >= $1 AND t."timestamp" < $2
    AND r.kept IS DISTINCT FROM r.average AND ($4::bool OR NOT r.short)
