-- Reading all stored bytes back in the background: how far the pass under way is, and what the last whole one came to. One row at most.
CREATE TABLE scrub (
    id BIGINT PRIMARY KEY NOT NULL,
    position TEXT NOT NULL,
    began_us BIGINT NOT NULL,
    blobs BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    last_began_us BIGINT,
    last_ended_us BIGINT,
    last_blobs BIGINT,
    last_bytes BIGINT
);

-- Blobs of rows that were found gone or changed, and have not been found whole since.
CREATE TABLE damaged_blobs (
    blob_key TEXT PRIMARY KEY NOT NULL,
    damage TEXT NOT NULL,
    found_us BIGINT NOT NULL
);
