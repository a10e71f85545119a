-- Programs of which schema still work with this one, so that a node of the version before can start again. A migration that the programs
-- before it don't mind says so here, with its own number and the oldest schema that still works. One that says nothing shuts them out.
CREATE TABLE schema_compatibility (
    only_row BIGINT PRIMARY KEY NOT NULL CHECK (only_row = 1),
    schema_number BIGINT NOT NULL,
    compatible_since BIGINT NOT NULL
);

INSERT INTO schema_compatibility (only_row, schema_number, compatible_since) VALUES (1, 14, 14);
