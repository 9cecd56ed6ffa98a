-- The bytes of photos, for nodes that share nothing else. With SQLite they are files beside it, so that its copies stay small.
CREATE TABLE photo_files (
    file_name TEXT PRIMARY KEY,
    data      BYTEA NOT NULL
);
