-- $1 names of output tables. The sessions that hold a lock on one of them or on a table of the bookkeeping, the oldest transaction
-- first. Of another role's session Postgres may show only the process id.
SELECT string_agg(concat_ws(' ', pid, nullif(application_name, ''), to_char(xact_start AT TIME ZONE 'UTC', '"since" HH24:MI:SS"Z"')), ', ')
FROM (
    SELECT DISTINCT pid, application_name, xact_start
    FROM pg_locks JOIN pg_class c ON c.oid = relation JOIN pg_stat_activity USING (pid)
    WHERE database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND granted AND pid <> pg_backend_pid()
        AND (relnamespace = 'tickloom'::regnamespace OR c.oid IN (SELECT to_regclass(name) FROM unnest($1::text[]) AS name))
    ORDER BY xact_start
    LIMIT 3
) holders
