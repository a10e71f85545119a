-- Work that one of several nodes does. Who dies loses its leases when their time is over, and another takes the work up.
CREATE TABLE leases (
    name TEXT PRIMARY KEY NOT NULL,
    holder TEXT NOT NULL,
    expires_us BIGINT NOT NULL
);
CREATE INDEX leases_by_expiry ON leases (expires_us);
