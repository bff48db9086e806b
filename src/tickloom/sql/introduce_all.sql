-- The symbols of tables that were filled before there was tickloom.symbols.
INSERT INTO tickloom.symbols (symbol)
SELECT symbol FROM (SELECT symbol FROM stock_prices UNION SELECT symbol FROM stock_volumes) filled
WHERE NOT EXISTS (SELECT FROM tickloom.symbols)
