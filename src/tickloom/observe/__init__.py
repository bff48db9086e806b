"""Everything that an operator sees of a running daemon: events, metrics, health, HTTP, and the outcome of a drain."""
