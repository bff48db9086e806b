-- Averages of rows whose window a late or corrected row entered.
UPDATE {table} t SET {average} = r.average
FROM pg_temp.revised_{side} r
WHERE t.symbol = r.symbol AND t."timestamp" = r."timestamp"
