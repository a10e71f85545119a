-- The id that this database shares with its store, so that neither is used with another one's. paired: the store bears it.
-- sweep: the mark that the latest sweep left on the store; sweep_before: the one before, because a crash may come between the two writes.
CREATE TABLE store_identity (
    only_row BIGINT PRIMARY KEY NOT NULL,
    id TEXT NOT NULL,
    paired BOOLEAN NOT NULL,
    sweep TEXT,
    sweep_before TEXT
);

-- The latest moment at which a process on this database was known to run. A clock that is far ahead of it has jumped, or nothing ran.
CREATE TABLE clock (
    only_row BIGINT PRIMARY KEY NOT NULL,
    seen_us BIGINT NOT NULL
);
