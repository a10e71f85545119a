-- Whether an org's uploads may be SVG, which is stored as what it shows.
ALTER TABLE orgs ADD COLUMN accepts_svg BOOLEAN NOT NULL DEFAULT FALSE;
