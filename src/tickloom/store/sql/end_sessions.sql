-- $1 application names. Ends the other sessions that bear them, as far as this role may end them; how many.
SELECT count(pg_terminate_backend(pid))::int
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = ANY ($1::text[])
    AND (pg_has_role(usesysid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE'))
