-- A look that failed for a passing reason is tried again: from when on, how often it has failed, and how often that ended a worker.
ALTER TABLE versions ADD COLUMN look_again_us BIGINT;
ALTER TABLE versions ADD COLUMN look_tries BIGINT NOT NULL DEFAULT 0;
ALTER TABLE versions ADD COLUMN look_deaths BIGINT NOT NULL DEFAULT 0;

-- Until now a passing failure counted as a look. What was spoiled is looked at once more; HEIC has no decoder here.
UPDATE versions SET looked_us = NULL WHERE look IS NULL AND looked_us IS NOT NULL AND format IS NOT NULL AND format <> 'heic';
