-- Two topics into three tables. job.py fills in ${…} from the environment.
-- The connector skips messages that are not JSON (ignore-parse-errors) and sets a field of another type to null, and a view
-- leaves out bad messages. None of this is logged.

CREATE TABLE prices (
  symbol STRING, price DOUBLE, open_price DOUBLE, high_price DOUBLE, low_price DOUBLE,
  `timestamp` TIMESTAMP_LTZ(6),
  sent TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL,
  -- Flink's watermarks are no finer than this. One bad message from the future would make all later messages late.
  event_time AS CAST(CASE
    WHEN `timestamp` BETWEEN sent - INTERVAL '31' DAY(2) AND sent + INTERVAL '1' DAY THEN `timestamp` ELSE sent
  END AS TIMESTAMP_LTZ(3)),
  WATERMARK FOR event_time AS event_time - INTERVAL '5' SECOND
) WITH (
  'connector' = 'kafka', 'topic' = '${PEER_PRICES_TOPIC}',
  'properties.bootstrap.servers' = '${PEER_BOOTSTRAP_SERVERS}', 'properties.group.id' = '${PEER_GROUP}',
  'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset',
  'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601', 'json.ignore-parse-errors' = 'true'
);

CREATE TABLE volumes (
  symbol STRING, volume DOUBLE,
  `timestamp` TIMESTAMP_LTZ(6),
  sent TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL,
  event_time AS CAST(CASE
    WHEN `timestamp` BETWEEN sent - INTERVAL '31' DAY(2) AND sent + INTERVAL '1' DAY THEN `timestamp` ELSE sent
  END AS TIMESTAMP_LTZ(3)),
  WATERMARK FOR event_time AS event_time - INTERVAL '5' SECOND
) WITH (
  'connector' = 'kafka', 'topic' = '${PEER_VOLUMES_TOPIC}',
  'properties.bootstrap.servers' = '${PEER_BOOTSTRAP_SERVERS}', 'properties.group.id' = '${PEER_GROUP}',
  'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset',
  'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601', 'json.ignore-parse-errors' = 'true'
);

-- With a primary key the sink upserts, so that rows written again after a failure do no harm.
CREATE TABLE stock_prices (
  symbol STRING, `timestamp` TIMESTAMP(6), price DOUBLE, open_price DOUBLE, high_price DOUBLE, low_price DOUBLE,
  price_moving_avg DOUBLE, PRIMARY KEY (symbol, `timestamp`) NOT ENFORCED
) WITH (
  'connector' = 'jdbc', 'url' = '${JDBC_URL}', 'username' = '${JDBC_USER}', 'password' = '${JDBC_PASSWORD}',
  'table-name' = 'stock_prices', 'sink.buffer-flush.max-rows' = '5000', 'sink.buffer-flush.interval' = '1s'
);

CREATE TABLE stock_volumes (
  symbol STRING, `timestamp` TIMESTAMP(6), volume DOUBLE,
  trading_volume_moving_avg DOUBLE, PRIMARY KEY (symbol, `timestamp`) NOT ENFORCED
) WITH (
  'connector' = 'jdbc', 'url' = '${JDBC_URL}', 'username' = '${JDBC_USER}', 'password' = '${JDBC_PASSWORD}',
  'table-name' = 'stock_volumes', 'sink.buffer-flush.max-rows' = '5000', 'sink.buffer-flush.interval' = '1s'
);

CREATE TABLE stock_analytics_data (
  symbol STRING, `timestamp` TIMESTAMP(6), price DOUBLE, volume DOUBLE, price_moving_avg DOUBLE,
  trading_volume_moving_avg DOUBLE, price_volume_ratio DOUBLE, PRIMARY KEY (symbol, `timestamp`) NOT ENFORCED
) WITH (
  'connector' = 'jdbc', 'url' = '${JDBC_URL}', 'username' = '${JDBC_USER}', 'password' = '${JDBC_PASSWORD}',
  'table-name' = 'stock_analytics_data', 'sink.buffer-flush.max-rows' = '5000', 'sink.buffer-flush.interval' = '1s'
);

-- A message is good only if the condition is true; null is not.
CREATE VIEW good_prices AS
SELECT * FROM prices
WHERE CHAR_LENGTH(symbol) BETWEEN 1 AND 64 AND NOT REGEXP(symbol, '\p{Cntrl}') AND ABS(price) <= 1E15
  AND `timestamp` BETWEEN sent - INTERVAL '31' DAY(2) AND sent + INTERVAL '1' DAY
  AND COALESCE(high_price >= low_price, TRUE);

CREATE VIEW good_volumes AS
SELECT * FROM volumes
WHERE CHAR_LENGTH(symbol) BETWEEN 1 AND 64 AND NOT REGEXP(symbol, '\p{Cntrl}') AND volume BETWEEN 0 AND 1E15
  AND `timestamp` BETWEEN sent - INTERVAL '31' DAY(2) AND sent + INTERVAL '1' DAY;

CREATE VIEW averaged_prices AS
SELECT *, AVG(price) OVER (
  PARTITION BY symbol ORDER BY event_time ROWS BETWEEN 4 PRECEDING AND CURRENT ROW
) AS price_moving_avg
FROM good_prices;

CREATE VIEW averaged_volumes AS
SELECT *, AVG(volume) OVER (
  PARTITION BY symbol ORDER BY event_time ROWS BETWEEN 4 PRECEDING AND CURRENT ROW
) AS trading_volume_moving_avg
FROM good_volumes;

INSERT INTO stock_prices
SELECT symbol, CAST(`timestamp` AS TIMESTAMP(6)), price, open_price, high_price, low_price, price_moving_avg
FROM averaged_prices;

INSERT INTO stock_volumes
SELECT symbol, CAST(`timestamp` AS TIMESTAMP(6)), volume, trading_volume_moving_avg
FROM averaged_volumes;

INSERT INTO stock_analytics_data
SELECT p.symbol, CAST(p.`timestamp` AS TIMESTAMP(6)), p.price, v.volume, p.price_moving_avg,
  v.trading_volume_moving_avg, p.price / NULLIF(v.volume, 0)
FROM averaged_prices p JOIN averaged_volumes v
ON p.symbol = v.symbol AND p.event_time = v.event_time AND p.`timestamp` = v.`timestamp`;
