-- $1 application names. Ends the other sessions with these names that this role may end. Returns their number.
SELECT count(pg_terminate_backend(pid))::int
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = ANY ($1::text[])
    AND (pg_has_role(usesysid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE'))
