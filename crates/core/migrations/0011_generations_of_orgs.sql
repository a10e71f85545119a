-- Counts the changes of an org's accounts, roles and rules, as access_generation counts all: a change concerns its own org alone.
ALTER TABLE orgs ADD COLUMN generation BIGINT NOT NULL DEFAULT 0;
