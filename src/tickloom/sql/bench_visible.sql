-- Which of the awaited keys ($1 symbols, $2 times) have their row in {table} by now: their places, from 1.
SELECT awaited.place FROM unnest($1::text[], $2::timestamptz[]) WITH ORDINALITY AS awaited (symbol, "timestamp", place)
WHERE EXISTS (SELECT FROM {table} t WHERE t.symbol = awaited.symbol AND t."timestamp" = awaited."timestamp")
