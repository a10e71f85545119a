-- Portable text: BIGINT, TEXT, BOOLEAN only; times are microseconds since 1970; ids are lower-case text made by the application.

CREATE TABLE orgs (
    id BIGINT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL UNIQUE
);

CREATE TABLE roles (
    org_id BIGINT NOT NULL REFERENCES orgs (id),
    name TEXT NOT NULL,
    PRIMARY KEY (org_id, name)
);

CREATE TABLE role_actions (
    org_id BIGINT NOT NULL,
    role TEXT NOT NULL,
    action TEXT NOT NULL,
    PRIMARY KEY (org_id, role, action),
    FOREIGN KEY (org_id, role) REFERENCES roles (org_id, name)
);

-- kind: user, till, client. login_folded is what a caller types, in lower case.
CREATE TABLE accounts (
    id TEXT PRIMARY KEY NOT NULL,
    org_id BIGINT NOT NULL REFERENCES orgs (id),
    kind TEXT NOT NULL,
    login TEXT NOT NULL,
    login_folded TEXT NOT NULL,
    email_folded TEXT,
    secret_hash TEXT NOT NULL,
    disabled BOOLEAN NOT NULL,
    token_ttl_seconds BIGINT,
    created_us BIGINT NOT NULL,
    UNIQUE (org_id, kind, login_folded)
);
CREATE INDEX accounts_by_login ON accounts (kind, login_folded);
CREATE INDEX accounts_by_email ON accounts (kind, email_folded);

CREATE TABLE account_roles (
    account_id TEXT NOT NULL REFERENCES accounts (id),
    org_id BIGINT NOT NULL,
    role TEXT NOT NULL,
    PRIMARY KEY (account_id, role),
    FOREIGN KEY (org_id, role) REFERENCES roles (org_id, name)
);

CREATE TABLE namespaces (
    org_id BIGINT NOT NULL REFERENCES orgs (id),
    name TEXT NOT NULL,
    PRIMARY KEY (org_id, name)
);

-- Only the sha-256 of a session's token is kept.
CREATE TABLE sessions (
    token_hash TEXT PRIMARY KEY NOT NULL,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    created_us BIGINT NOT NULL,
    last_used_us BIGINT NOT NULL,
    expires_us BIGINT NOT NULL
);
CREATE INDEX sessions_by_account ON sessions (account_id);
CREATE INDEX sessions_by_expiry ON sessions (expires_us);

-- state: draft, temporary, kept, deleted.
CREATE TABLE images (
    id TEXT PRIMARY KEY NOT NULL,
    org_id BIGINT NOT NULL REFERENCES orgs (id),
    owner_id TEXT NOT NULL REFERENCES accounts (id),
    namespace TEXT NOT NULL,
    app_key TEXT,
    permission TEXT,
    state TEXT NOT NULL,
    latest_version BIGINT NOT NULL,
    created_us BIGINT NOT NULL
);
CREATE INDEX images_by_org ON images (org_id, created_us);

-- The facts are absent for files that are kept unseen.
CREATE TABLE versions (
    image_id TEXT NOT NULL REFERENCES images (id),
    number BIGINT NOT NULL,
    blob_key TEXT NOT NULL UNIQUE,
    size_bytes BIGINT NOT NULL,
    digest TEXT NOT NULL,
    content_type TEXT NOT NULL,
    file_name TEXT,
    format TEXT,
    width BIGINT,
    height BIGINT,
    frames BIGINT,
    orientation BIGINT,
    created_by TEXT NOT NULL REFERENCES accounts (id),
    created_us BIGINT NOT NULL,
    PRIMARY KEY (image_id, number)
);
CREATE INDEX versions_by_digest ON versions (digest);

-- Counts changes of accounts, roles and rights; every process that caches them polls it.
CREATE TABLE access_generation (
    only_row BIGINT PRIMARY KEY NOT NULL,
    value BIGINT NOT NULL
);
INSERT INTO access_generation (only_row, value) VALUES (1, 0);
