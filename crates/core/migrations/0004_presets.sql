-- Transforms with a name, which an org allows for everybody who may see an image.
CREATE TABLE presets (
    org_id BIGINT NOT NULL REFERENCES orgs (id),
    name TEXT NOT NULL,
    steps TEXT NOT NULL,
    PRIMARY KEY (org_id, name)
);
