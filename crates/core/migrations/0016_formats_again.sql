-- Formats that have got a decoder since images of them were looked at. In the background those are looked at once more, and the row goes.
CREATE TABLE formats_again (
    format TEXT PRIMARY KEY NOT NULL
);

INSERT INTO formats_again (format) VALUES ('heic');

UPDATE schema_compatibility SET schema_number = 16, compatible_since = 14;
