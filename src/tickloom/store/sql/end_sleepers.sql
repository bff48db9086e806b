-- $1 seconds. Ends the other sessions of this role that hold the row of tickloom.sharing and whose client has not moved for
-- $1 seconds. Returns their number.
SELECT count(pg_terminate_backend(pid))::int
FROM pg_locks JOIN pg_stat_activity a USING (pid)
WHERE relation = to_regclass('tickloom.sharing') AND locktype = 'relation' AND granted AND mode = 'RowShareLock'
  AND a.datname = current_database() AND a.usename = current_user AND pid <> pg_backend_pid()
  -- Between two messages of one statement (a client may look up types there) a session is active, and waits for its client.
  AND (a.state LIKE 'idle in transaction%' OR a.wait_event = 'ClientRead') AND a.state_change < clock_timestamp() - make_interval(secs => $1)
