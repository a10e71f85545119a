-- Temporary pictures with a ticket, the crop of an image, and the avatars of resources.

-- In pixels of the upright picture; all four or none.
ALTER TABLE images ADD COLUMN crop_x BIGINT;
ALTER TABLE images ADD COLUMN crop_y BIGINT;
ALTER TABLE images ADD COLUMN crop_width BIGINT;
ALTER TABLE images ADD COLUMN crop_height BIGINT;

-- A temporary image has one; taking the image deletes it. Numbers are unique in the whole service.
CREATE TABLE tickets (
    number BIGINT PRIMARY KEY NOT NULL,
    image_id TEXT NOT NULL UNIQUE REFERENCES images (id),
    org_id BIGINT NOT NULL REFERENCES orgs (id),
    expires_us BIGINT NOT NULL
);
CREATE INDEX tickets_by_expiry ON tickets (expires_us);

-- For those who want small numbers that rise.
CREATE TABLE ticket_series (
    only_row BIGINT PRIMARY KEY NOT NULL,
    last_number BIGINT NOT NULL
);
INSERT INTO ticket_series (only_row, last_number) VALUES (1, 1000);

-- The avatars that a resource has had; the highest number is the present one. Without an image it is the generated default.
CREATE TABLE avatars (
    org_id BIGINT NOT NULL REFERENCES orgs (id),
    service TEXT NOT NULL,
    resource TEXT NOT NULL,
    number BIGINT NOT NULL,
    image_id TEXT UNIQUE REFERENCES images (id),
    created_by TEXT NOT NULL REFERENCES accounts (id),
    created_us BIGINT NOT NULL,
    PRIMARY KEY (org_id, service, resource, number)
);
