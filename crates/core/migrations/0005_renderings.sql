-- The place that people should see of an image, what images look like from afar, renderings that are kept.

-- In thousandths of the upright picture's width and height; both or none.
ALTER TABLE images ADD COLUMN focus_x BIGINT;
ALTER TABLE images ADD COLUMN focus_y BIGINT;

-- Hexadecimal digits of a colour and a ThumbHash. looked_us is when somebody looked, whether or not there was anything to see.
ALTER TABLE versions ADD COLUMN look TEXT;
ALTER TABLE versions ADD COLUMN looked_us BIGINT;
CREATE INDEX versions_to_look_at ON versions (created_us) WHERE looked_us IS NULL AND format IS NOT NULL;

-- Whether renderings of a preset are made as soon as an image is stored.
ALTER TABLE presets ADD COLUMN prewarm BOOLEAN NOT NULL DEFAULT FALSE;

-- Renderings that are kept, with the key of the bytes that they were made of. Those used longest ago go first.
CREATE TABLE variants (
    key TEXT PRIMARY KEY NOT NULL,
    version_blob_key TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    used_us BIGINT NOT NULL
);
CREATE INDEX variants_by_version ON variants (version_blob_key);
CREATE INDEX variants_by_use ON variants (used_us, size_bytes);
