-- The derived outputs that every daemon of this database must maintain, as `migrate` found them declared.
CREATE TABLE IF NOT EXISTS tickloom.outputs (
    name       text PRIMARY KEY,
    definition text NOT NULL
);
-- Every start reads it, also by roles that got their rights by GRANT … ON ALL TABLES before this table existed.
GRANT SELECT ON tickloom.outputs TO PUBLIC;
