-- Files with a name, versions, deletion with an undo window, keys that sign.

-- A name is unique inside its org and namespace for ever; images without a name are not concerned.
ALTER TABLE images ADD COLUMN name TEXT;
ALTER TABLE images ADD COLUMN acl TEXT NOT NULL DEFAULT 'private';
-- The highest number that a version ever got: numbers are not reused. latest_version is the newest that can be read, 0 without one.
ALTER TABLE images ADD COLUMN last_number BIGINT NOT NULL DEFAULT 1;
CREATE UNIQUE INDEX images_by_name ON images (org_id, namespace, name);

-- A deleted version can be restored until its bytes are swept.
ALTER TABLE versions ADD COLUMN deleted_us BIGINT;
ALTER TABLE versions ADD COLUMN attribution_entity_type TEXT;
ALTER TABLE versions ADD COLUMN attribution_code TEXT;
CREATE INDEX versions_by_deletion ON versions (deleted_us) WHERE deleted_us IS NOT NULL;

-- Absent values stand for the service's settings. formats: extensions separated by commas.
ALTER TABLE namespaces ADD COLUMN bytes_max BIGINT;
ALTER TABLE namespaces ADD COLUMN formats TEXT;
ALTER TABLE namespaces ADD COLUMN verbatim BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE namespaces ADD COLUMN time_zone TEXT;

-- purpose: tokens, links. honoured_until_us is absent while the key is the one that signs.
CREATE TABLE signing_keys (
    id TEXT PRIMARY KEY NOT NULL,
    purpose TEXT NOT NULL,
    secret TEXT NOT NULL,
    created_us BIGINT NOT NULL,
    honoured_until_us BIGINT
);
