"""What an operator sees of a running daemon: metrics, health, HTTP, and the outcome of a drain."""
