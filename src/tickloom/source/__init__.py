"""Everything that Kafka says: the group, the messages, and where the logs end."""
