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
    // 2: rules, suppressions, pools and the audit trail. All times are milliseconds since the Unix epoch. What makes two
    // rules the same is `identity`; scope, decree and windows are JSON (see `stored.rs`).
    "CREATE TABLE rule (
         position   INTEGER PRIMARY KEY AUTOINCREMENT, -- by age
         id         TEXT    NOT NULL UNIQUE,
         collection TEXT    NOT NULL
                    CHECK (collection IN ('pause', 'error', 'suspension', 'path-suspension', 'bounce')),
         identity   TEXT    NOT NULL,
         scope      TEXT    NOT NULL,
         decree     TEXT    NOT NULL,
         cluster    INTEGER NOT NULL CHECK (cluster IN (0, 1)),
         starts     INTEGER,
         ends       INTEGER,
         windows    TEXT,
         created    INTEGER NOT NULL,
         token      TEXT    NOT NULL,
         peer       TEXT    NOT NULL,
         changed    INTEGER NOT NULL,
         node       TEXT    NOT NULL,
         UNIQUE (collection, identity)
     ) STRICT;
     CREATE INDEX rule_ends ON rule (ends) WHERE ends IS NOT NULL;
     CREATE INDEX rule_recurs ON rule (position) WHERE windows IS NOT NULL;
     CREATE TABLE suppression (
         value       TEXT    NOT NULL PRIMARY KEY, -- lower case, domain in A-labels; an address has an @
         code        INTEGER NOT NULL CHECK (code BETWEEN 200 AND 599),
         extended    TEXT,
         description TEXT,
         token       TEXT    NOT NULL
     ) STRICT, WITHOUT ROWID;
     CREATE TABLE pool (
         name        TEXT NOT NULL PRIMARY KEY,
         description TEXT
     ) STRICT, WITHOUT ROWID;
     CREATE TABLE pool_ip (
         ip   TEXT NOT NULL PRIMARY KEY,
         pool TEXT NOT NULL REFERENCES pool (name) ON DELETE CASCADE
     ) STRICT, WITHOUT ROWID;
     CREATE INDEX pool_ip_pool ON pool_ip (pool);
     CREATE TABLE external_mta (
         public_ip    TEXT NOT NULL PRIMARY KEY,
         local_ip     TEXT NOT NULL,
         connect_ip   TEXT,
         connect_port INTEGER CHECK (connect_port BETWEEN 1 AND 65535),
         protocol     TEXT NOT NULL CHECK (protocol IN ('nat', 'socks', 'http'))
     ) STRICT, WITHOUT ROWID;
     CREATE TABLE audit (
         sequence INTEGER PRIMARY KEY AUTOINCREMENT,
         at       INTEGER NOT NULL,
         token    TEXT    NOT NULL,
         peer     TEXT    NOT NULL,
         what     TEXT    NOT NULL,
         before   TEXT, -- JSON
         after    TEXT  -- JSON
     ) STRICT;",
    // 3: how many recipients each rule has ended, and up to where in the outcome logs that goes. Both change in one
    // transaction.
    "CREATE TABLE ended (
         rule   INTEGER NOT NULL REFERENCES rule (position) ON DELETE CASCADE,
         queue  TEXT    NOT NULL, -- scheduled queue
         before INTEGER NOT NULL, -- before the start of the engine that runs now
         since  INTEGER NOT NULL, -- since then
         PRIMARY KEY (rule, queue)
     ) STRICT, WITHOUT ROWID;
     CREATE INDEX ended_since ON ended (rule) WHERE since > 0;
     CREATE TABLE counted (
         shard  INTEGER NOT NULL,
         file   TEXT    NOT NULL CHECK (file IN ('log', 'unlogged')),
         first  INTEGER,          -- fingerprint of the file's first line
         octets INTEGER NOT NULL,
         at     INTEGER NOT NULL,
         PRIMARY KEY (shard, file)
     ) STRICT, WITHOUT ROWID;",
    // 4: what is shared with other engines through etcd. `revision` is that of etcd at which a row was changed last; 0 for
    // one that etcd does not have. Whether a rule of KumoMTA's dialect is for the whole cluster is part of what it is
    // from now on, as it is in MailerQ's.
    "ALTER TABLE rule ADD COLUMN revision INTEGER NOT NULL DEFAULT 0;
     ALTER TABLE rule ADD COLUMN key TEXT; -- in etcd, while it has a revision
     CREATE UNIQUE INDEX rule_key ON rule (key) WHERE key IS NOT NULL;
     CREATE INDEX rule_unshared ON rule (position) WHERE cluster = 1 AND revision = 0;
     DROP INDEX rule_ends;
     CREATE INDEX rule_ends ON rule (ends) WHERE ends IS NOT NULL AND revision = 0;
     CREATE INDEX rule_ends_shared ON rule (ends) WHERE ends IS NOT NULL AND revision > 0;
     UPDATE rule SET identity = CASE identity WHEN '{}' THEN '{\"cluster\":true}'
                                ELSE substr(identity, 1, length(identity) - 1) || ',\"cluster\":true}' END
         WHERE cluster = 1 AND collection IN ('suspension', 'path-suspension', 'bounce');
     ALTER TABLE suppression ADD COLUMN revision INTEGER NOT NULL DEFAULT 0;
     ALTER TABLE pool ADD COLUMN revision INTEGER NOT NULL DEFAULT 0;
     ALTER TABLE audit ADD COLUMN node TEXT; -- that took the request, when it came through etcd
     CREATE TABLE cluster (
         one      INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
         uuid     TEXT    NOT NULL, -- of this data directory
         place    TEXT,             -- etcd's cluster and the prefix in it that revisions are of
         revision INTEGER NOT NULL, -- everything up to it is stored here; 0: everything must be read anew
         behind   INTEGER NOT NULL, -- the same, when this engine last ran outside the cluster
         joined   INTEGER NOT NULL CHECK (joined IN (0, 1)), -- what was made outside has been brought in
         counted  INTEGER NOT NULL CHECK (counted IN (0, 1)) -- the others wait for this one even when it is lost
     ) STRICT;",
    // 5: which revision of etcd a line of the audit trail is about; and which rule of etcd was changed last.
    "ALTER TABLE audit ADD COLUMN revision INTEGER; -- NULL for what did not come through etcd
     CREATE INDEX rule_revision ON rule (revision) WHERE key IS NOT NULL;",
];
