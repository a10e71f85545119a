-- Work that one of several nodes does. Who dies loses its leases when their time is over, and another takes the work up.
CREATE TABLE leases (
    name TEXT PRIMARY KEY NOT NULL,
    holder TEXT NOT NULL,
    expires_us BIGINT NOT NULL
);
CREATE INDEX leases_by_expiry ON leases (expires_us);

-- Processes that serve while the data moves elsewhere. waits: it takes no writes until it has moved or been told to go on.
CREATE TABLE nodes (
    id TEXT PRIMARY KEY NOT NULL,
    seen_us BIGINT NOT NULL,
    waits BOOLEAN NOT NULL
);

-- A move of all data to another database and store. side: source or target. state: copying, waiting, moved, live.
-- position: the last blob that was copied; absent until all rows have been.
CREATE TABLE moves (
    side TEXT PRIMARY KEY NOT NULL,
    id TEXT NOT NULL,
    state TEXT NOT NULL,
    position TEXT,
    waits_until_us BIGINT NOT NULL
);
