"""Everything that comes from Kafka: the group, the messages, the ends of the logs, and facts about the cluster."""
