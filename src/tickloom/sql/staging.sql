-- Temporary tables of one connection, per side: corrections, and averages to revise. They empty themselves at every COMMIT.
CREATE TEMP TABLE IF NOT EXISTS corrected_{side} (LIKE {table}) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE IF NOT EXISTS revised_{side}
    (symbol text COLLATE "C", "timestamp" timestamptz, average float8) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE IF NOT EXISTS remet (LIKE stock_analytics_data) ON COMMIT DELETE ROWS;
