-- Ended sessions are found without a look at all of them.
CREATE INDEX sessions_by_use ON sessions (last_used_us);
-- Nothing was ever looked up by it, and every upload wrote into a random page of it.
DROP INDEX versions_by_digest;
