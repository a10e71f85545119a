-- Notes of use and leases are rewritten all the time. Where no index holds what changes, PostgreSQL writes the new row beside the old one and
-- leaves no work for vacuum (a HOT update), as long as there is room in the page.
DROP INDEX variants_by_use;
DROP INDEX leases_by_expiry;
-- postgres: ALTER TABLE variants SET (fillfactor = 65);
-- postgres: ALTER TABLE leases SET (fillfactor = 50);

-- What the target of a move is called, for whoever starts a service on the source when the data has moved.
ALTER TABLE moves ADD COLUMN target TEXT;

-- Older programs miss nothing but speed.
UPDATE schema_compatibility SET schema_number = 15, compatible_since = 14;
