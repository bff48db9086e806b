-- Adds the symbols of the slice [$1, $2) that tickloom.symbols lacks.
INSERT INTO tickloom.symbols (symbol)
SELECT symbol FROM stock_prices WHERE "timestamp" >= $1 AND "timestamp" < $2
UNION
SELECT symbol FROM stock_volumes WHERE "timestamp" >= $1 AND "timestamp" < $2
ON CONFLICT DO NOTHING
