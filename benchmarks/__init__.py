"""The peers: the same work done by what people use today, on one log, on one machine, in one run, and judged."""
