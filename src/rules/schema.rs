//! The tables of `DATA/rules.db`, as steps from one version to the next. A step that was once released is
//! never changed; a new one is added at the end.

/// Step n leads from version n to n + 1; SQLite's `user_version` says how many a database has had.
pub const MIGRATIONS: &[&str] = &[
    // 1: tokens. A revoked one stays, so that what it did keeps its name; its name may be given again.
    "CREATE TABLE token (
         id      INTEGER PRIMARY KEY AUTOINCREMENT,
         name    TEXT    NOT NULL,
         scope   TEXT    NOT NULL CHECK (scope IN ('read', 'inject', 'control', 'admin')),
         sha256  BLOB    NOT NULL UNIQUE CHECK (length(sha256) = 32),
         created INTEGER NOT NULL, -- milliseconds since the Unix epoch
         revoked INTEGER           -- the same; NULL while it is valid
     ) STRICT;
     CREATE UNIQUE INDEX token_name ON token (name) WHERE revoked IS NULL;",
];
