-- Everything keyed by user first: the rows of one user lie together, and forgetting a user is one range per table.
CREATE TABLE users (
    user_id      TEXT PRIMARY KEY,
    display_name TEXT,
    created_at   REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE apps (
    package_name TEXT PRIMARY KEY,
    record       TEXT NOT NULL,          -- JSON of AppRecord
    updated_at   REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE installed_apps (
    user_id      TEXT NOT NULL,
    package_name TEXT NOT NULL,
    wanted       INTEGER NOT NULL DEFAULT 0,
    installed_at REAL NOT NULL,
    PRIMARY KEY (user_id, package_name)
) WITHOUT ROWID;
CREATE INDEX installed_apps_by_package ON installed_apps (package_name);

-- One row per key, so that two writers on different keys never lose each other's change.
CREATE TABLE user_settings (
    user_id TEXT NOT NULL,
    kind    TEXT NOT NULL,               -- 'system' or 'phone'
    key     TEXT NOT NULL,
    value   TEXT NOT NULL,               -- JSON
    PRIMARY KEY (user_id, kind, key)
) WITHOUT ROWID;

CREATE TABLE app_settings (
    user_id      TEXT NOT NULL,
    package_name TEXT NOT NULL,
    key          TEXT NOT NULL,
    value        TEXT NOT NULL,          -- JSON
    PRIMARY KEY (user_id, package_name, key)
) WITHOUT ROWID;

CREATE TABLE simple_storage (
    user_id      TEXT NOT NULL,
    package_name TEXT NOT NULL,
    key          TEXT NOT NULL,
    value        TEXT NOT NULL,
    PRIMARY KEY (user_id, package_name, key)
);

CREATE TABLE registrations (
    registration_id TEXT PRIMARY KEY,
    package_name    TEXT NOT NULL,
    webhook_url     TEXT NOT NULL,
    server_urls     TEXT NOT NULL,       -- JSON list
    created_at      REAL NOT NULL,
    last_seen_at    REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE onboarding (
    user_id      TEXT NOT NULL,
    package_name TEXT NOT NULL,
    completed_at REAL NOT NULL,
    PRIMARY KEY (user_id, package_name)
) WITHOUT ROWID;

CREATE TABLE last_location (
    user_id  TEXT PRIMARY KEY,
    lat      REAL NOT NULL,
    lng      REAL NOT NULL,
    accuracy REAL,
    at       REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE tokens (
    token_id   TEXT PRIMARY KEY,
    user_id    TEXT NOT NULL,
    label      TEXT NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL,
    revoked_at REAL
) WITHOUT ROWID;
CREATE INDEX tokens_by_user ON tokens (user_id);

CREATE TABLE sessions (
    user_id    TEXT PRIMARY KEY,
    session_id TEXT NOT NULL,
    epoch      TEXT NOT NULL,
    updated_at REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE photos (
    photo_id     TEXT PRIMARY KEY,
    user_id      TEXT NOT NULL,
    request_id   TEXT NOT NULL,
    package_name TEXT,
    mime_type    TEXT NOT NULL,
    file_name    TEXT NOT NULL,
    size         INTEGER NOT NULL,
    created_at   REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX photos_by_user ON photos (user_id, created_at);

-- Written by the readiness check: a disk that is full or read-only shows here first.
CREATE TABLE health (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    checked_at REAL NOT NULL
);
