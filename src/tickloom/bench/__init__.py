"""``tickloom bench``: what this machine does with this broker and this Postgres, in one run.

It makes topics, consumer groups and databases of its own, each with a random suffix, and removes them at the end;
nothing that was there before is read or written. The daemon is the real one, as a process, started anew on a fresh
database with a fresh group for each repetition. Repetitions are interleaved (read floor, COPY floor, end to end,
then again), and every figure is the median of its ``runs``: machines drift, so trust the ratios.

    plan         what is asked for, and the log that follows from it (pure)
    broker       topics, the producers, the reading without anything else: all of Kafka
    databases    databases, history, COPY out and COPY in: all of Postgres
    child        the daemon as a measured process: wall, CPU, memory
    throughput   floors and end to end, interleaved; every shape of messages beside the plain one
    latency      open loop: from the intended send to the row that another session sees
    steady       a daemon with nothing to do, and one that starts on much history
    report       medians, and the tables that a person reads

The document of ``--json``
--------------------------

A part that was not asked for is null. Seconds, bytes and messages; rates are messages of both topics a second.

    tickloom            version
    date                when the bench began, ISO-8601 in UTC
    machine             cpus, memory_bytes, system
    versions            python, polars, confluent_kafka, librdkafka, postgres, kafka (null: no client can ask a broker)
    settings            the daemon's settings as it logs them: no URL, no password
    log                 what the main log is: messages (both topics), symbols, partitions (a topic), hours (of event
                        time), disorder, disorder_seconds, late_hours, volumes_behind, history_days, shape (or shapes, or all)
    repetitions         of each figure
    throughput          null with --messages 0, and with several shapes
      read_floor        messages_per_second, seconds, runs[seconds]: two consumers as the daemon's, and nothing else
      copy_floor        rows_per_second, messages_per_second, seconds, rows, runs[seconds]: the rows that the daemon
                        left in the three tables, encoded and sorted by key (sorted by partition first, Postgres
                        takes no less), into equal partitions that exist beforehand, one connection, one transaction
      end_to_end        messages_per_second, seconds, runs[seconds]: `tickloom run --once`, process start to exit;
                        cpu_seconds_per_million, cpu_by_stage{stage: CPU seconds per million messages},
                        peak_memory_bytes (the largest of all runs; null where there is no /proc)
      plain             as end_to_end, for the same number of messages with all else left at its default; null
                        where the log is just that, or with --no-plain
      ratios            medians of each repetition's own ratio: end_to_end_to_copy_floor, end_to_end_to_read_floor,
                        end_to_end_to_plain (null without plain)
    shapes              null but with several shapes: a list, the plain shape first (all its runs), each as end_to_end and
                        shape (its name), decode_cpu_seconds_per_million (as in cpu_by_stage), ratio_to_plain (the
                        median of each repetition's own ratio of rates: the plain log runs beside each shape)
    latency             null without --rate: a list, one for each
      rate, seconds, warmup_seconds (sent first, not counted), messages
      watched           pairs that were waited for: all, or an even share where there are more than 500 a second; none
                        that a shape has made bad on one side
      row               p50_ms, p99_ms, p999_ms, max_ms from a message's intended send to its row in stock_prices or
                        stock_volumes, as seen by another session
      joined            the same for the pair's row in stock_analytics_data
      resolution_ms     p50 and p99 of the time between two looks: no figure can be finer
      producer_late_ms  p99 and max of how late our own producer was; it is inside all figures above
      cpu_share         of one core, the daemon's while the messages that count were sent; null where there is no /proc
    idle                null without --idle: seconds, cpu_share (of one core)
    restart             null without --restart: symbols, history_rows, table_partitions, runs[seconds],
                        first_row_seconds (process start to the first new row), all_rows_seconds (to one for each symbol)

Stages in ``cpu_by_stage``: ``start`` (interpreter and imports), ``loop`` (the event loop's thread: COPY, gather,
HTTP), ``consume`` (the reading thread), ``decode``, ``symbols`` (who is in the batch, and who of them is not cached),
``join``, ``encode`` (in the one thread for CPU work), ``librdkafka`` (its own threads: fetching, checksums,
decompression), ``polars`` (its threads, which work for decode and join and cannot be told apart between them),
``other`` (what is left of the total, which is the child's own rusage: the group's membership, handing over between
threads, the end of the process). What comes once a process and not with each message, ``start`` and most of
``other``, weighs less the longer the log is.
"""
