-- Ended sessions are found without a look at all of them.
CREATE INDEX sessions_by_use ON sessions (last_used_us);
