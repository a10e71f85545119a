-- The number of the latest `imagewell migrate` that has claimed this side of a move. Writes of an earlier one are refused.
ALTER TABLE moves ADD COLUMN fence BIGINT NOT NULL DEFAULT 0;

-- Whether a process has gone on with the target of a move.
ALTER TABLE nodes ADD COLUMN follows BOOLEAN NOT NULL DEFAULT FALSE;
