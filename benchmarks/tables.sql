-- tickloom's three tables, without the two columns that say which message a row came from. processed_at has a default, so
-- that a peer need not write it.
CREATE TABLE stock_prices (
    symbol text COLLATE "C" NOT NULL, "timestamp" timestamptz NOT NULL,
    price float8, open_price float8, high_price float8, low_price float8, price_moving_avg float8,
    PRIMARY KEY (symbol, "timestamp")
) PARTITION BY RANGE ("timestamp");

CREATE TABLE stock_volumes (
    symbol text COLLATE "C" NOT NULL, "timestamp" timestamptz NOT NULL,
    volume float8, trading_volume_moving_avg float8,
    PRIMARY KEY (symbol, "timestamp")
) PARTITION BY RANGE ("timestamp");

CREATE TABLE stock_analytics_data (
    symbol text COLLATE "C" NOT NULL, "timestamp" timestamptz NOT NULL,
    price float8, volume float8, price_moving_avg float8, trading_volume_moving_avg float8, price_volume_ratio float8,
    processed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (symbol, "timestamp")
) PARTITION BY RANGE ("timestamp");
