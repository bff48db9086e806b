"""``tickloom bench``: measures this machine with this broker and this Postgres, in one run.

It creates topics, consumer groups and databases of its own, each with a random name, and removes them at the end. It
reads and writes nothing else. It measures the real daemon as a process, which starts on a fresh database with a fresh
group for each repetition. Repetitions are interleaved (read floor, COPY floor, end to end, then all three again), and
every figure is the median of its ``runs``. Machines drift, so trust the ratios.

    plan         the requested measurements, and the messages of the log (pure)
    rig          the broker, the databases and the folder of one run, and their removal
    broker       everything in Kafka: topics, producers, and reading without any other work
    databases    everything in Postgres: databases, history, COPY out and COPY in
    child        the daemon as a measured process: time, CPU, memory
    throughput   floors and end to end, interleaved; every shape of messages beside the plain one
    latency      open loop: from the intended send to the row that another session sees
    steady       an idle daemon, and a daemon that starts on a long history
    report       medians, and the tables for people
    progress     the progress bar
    run          the whole bench

The document of ``--json``
--------------------------

A part that was not requested is null. Units are seconds, bytes and messages. Rates count the messages of both topics
per second.

    tickloom            version
    date                start of the bench, ISO-8601 in UTC
    machine             cpus, memory_bytes, system
    versions            python, polars, confluent_kafka, librdkafka, postgres, kafka (null: a client cannot ask for it)
    settings            the daemon's settings as it logs them: no URL, no password
    log                 the main log: messages (both topics), symbols, partitions (per topic), hours (of event time),
                        disorder, disorder_seconds, late_hours, volumes_behind, history_days, shape (or shapes, or all)
    repetitions         of each figure
    throughput          null with --messages 0, and with several shapes
      read_floor        messages_per_second, seconds, runs[seconds]: two consumers like the daemon's, and no other work
      copy_floor        rows_per_second, messages_per_second, seconds, rows, runs[seconds]: the rows that the daemon
                        left in the three tables, encoded and sorted by key (sorting by partition first saves Postgres
                        nothing), into the same partitions, created beforehand; one connection, one transaction
      end_to_end        messages_per_second, seconds, runs[seconds]: `tickloom run --once`, from process start to exit;
                        cpu_seconds_per_million, cpu_by_stage{stage: CPU seconds per million messages},
                        peak_memory_bytes (the largest of all runs; null without /proc)
      plain             like end_to_end, for the same number of messages with every other option at its default; null
                        if the log is the default one, or with --no-plain
      ratios            medians of each repetition's own ratio: end_to_end_to_copy_floor, end_to_end_to_read_floor,
                        end_to_end_to_plain (null without plain)
    shapes              null unless several shapes are measured: a list, the plain shape first (with all its runs). Each
                        is like end_to_end, with shape (its name), decode_cpu_seconds_per_million (from cpu_by_stage)
                        and ratio_to_plain (the median of each repetition's own ratio of rates: the plain log runs
                        beside each shape)
    latency             null without --rate: a list, one entry per rate
      rate, seconds, warmup_seconds (sent first, not counted), messages
      watched           pairs whose rows were awaited: all, or an even share above 500 pairs a second; a pair with a bad
                        side is never watched
      row               p50_ms, p99_ms, p999_ms, max_ms from a message's intended send to its row in stock_prices or
                        stock_volumes, as another session sees it
      joined            the same for the pair's row in stock_analytics_data
      resolution_ms     p50 and p99 of the time between two polls of the tables: no figure can be finer
      producer_late_ms  p99 and max of the delay of our own producer; all figures above include it
      cpu_share         of one core, used by the daemon while the counted messages were sent; null without /proc
    idle                null without --idle: seconds, cpu_share (of one core)
    restart             null without --restart: symbols, history_rows, table_partitions, runs[seconds],
                        first_row_seconds (process start to the first new row), all_rows_seconds (to one per symbol)

Stages in ``cpu_by_stage``: ``start`` (interpreter and imports), ``loop`` (the event loop's thread: COPY, gather,
HTTP), ``consume`` (the reading thread), ``decode``, ``join`` and ``encode`` (in the one thread for CPU work),
``librdkafka`` (its own threads: fetching, checksums, decompression), ``polars`` (its threads, which work for both
decode and join), ``other`` (the rest of the child's total CPU time: the group's membership, handing over between
threads, the end of the process). The cost of ``start`` and most of ``other`` occurs once per process, so the longer
the log, the less it weighs.
"""
