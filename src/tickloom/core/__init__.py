"""Pure and synchronous: what a batch is, and what it does to the tables. No Kafka, no Postgres, no clock."""
