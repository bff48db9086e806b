-- $1 application names. Ends the other sessions of this role that bear them; how many.
SELECT count(pg_terminate_backend(pid))::int
FROM pg_stat_activity
WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()
  AND application_name = ANY ($1::text[])
