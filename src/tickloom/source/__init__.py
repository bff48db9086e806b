"""Everything that comes from Kafka: the group, the messages, the ends of the logs, the facts of the cluster."""
