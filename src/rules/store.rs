//! The authoritative set of what the operator decreed: SQLite at `DATA/rules.db`. The one door to rusqlite.
//! Every change is on disk when its method returns. Blocking: lives on its own thread, or in a command.

mod ended;
mod follow;
mod group;
mod membership;
mod reader;
mod rows;

pub use group::RULES_MAX;
pub use membership::KnownRule;
pub use reader::Reader;
pub use rows::AuditEntry;

use super::schema::MIGRATIONS;
use crate::files::make_private_file;
use crate::token::{Scope, Token, TokenSet, hash};
use mailrace_shards::time::Timestamp;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, TransactionBehavior, params};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a writer waits for another process's transaction, such as a `mailrace token` command's.
const BUSY_WAIT: Duration = Duration::from_secs(5);

/// Prepared statements kept; there are fewer.
const STATEMENTS_MAX: usize = 64;

/// Pages of the database in memory, in KiB, at most.
const PAGE_CACHE_KIB: i64 = 4 << 10;

/// The same during an import. One in no order touches most pages of its table in each transaction; with fewer in
/// memory it would read and write them several times over.
const IMPORT_CACHE_KIB: i64 = 64 << 10;

/// Pages in the journal before they go into the database (64 MB). A page that many transactions of an import change
/// is then written there once for all of them. A stop empties the journal.
const JOURNAL_PAGES: i64 = 16 << 10;

/// Octets that the journal's file keeps when it is empty.
const JOURNAL_KEPT_BYTES: i64 = 4 << 20;

/// Valid tokens at once; a further one is refused.
pub const TOKENS_MAX: usize = 10_000;

/// Why the store did not do what it was asked.
#[derive(Debug)]
pub enum StoreError {
    /// Refused; the text says why to the operator.
    Refused(String),
    /// The database could not be used.
    Database {
        /// Its file.
        path: PathBuf,
        /// SQLite's word.
        error: rusqlite::Error,
    },
    /// A commit has failed, and what it left on the disk could not be written over.
    Unsure {
        /// The database's file.
        path: PathBuf,
        /// SQLite's word on the commit.
        error: rusqlite::Error,
    },
    /// A later mailrace wrote the database.
    TooNew {
        /// Its file.
        path: PathBuf,
        /// Its version.
        version: i64,
    },
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(text) => f.write_str(text),
            Self::Database { path, error } => write!(f, "{} cannot be used: {error}", path.display()),
            Self::Unsure { path, error } => write!(
                f,
                "{} cannot be used: {error}. Should the machine or the engine die before the disk works again, this may be in \
                 force after the start all the same",
                path.display()
            ),
            Self::TooNew { path, version } => write!(
                f,
                "{} has version {version}, this mailrace knows up to {}; run the newer one that wrote it",
                path.display(),
                MIGRATIONS.len()
            ),
        }
    }
}

impl std::error::Error for StoreError {}

/// An open database. One thread owns it.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
    /// SQLite's count of changes by others, as of the last look.
    seen: i64,
    /// How many rules there are.
    rules: u64,
    /// This engine is in a cluster.
    clustered: bool,
    /// The journal on disk may hold a change that was refused.
    unsure: bool,
}

impl Store {
    /// Opens `data_dir/rules.db`, which a start of the engine made. A command that made it could leave files of
    /// its own user, usually root, that the engine's user cannot open.
    pub fn open_existing(data_dir: &Path) -> Result<Self, StoreError> {
        let path = data_dir.join("rules.db");
        if !path.exists() {
            let text = format!(
                "there is no {}; start mailrace once, or name its directory with --data-dir or --config",
                path.display()
            );
            return Err(StoreError::Refused(text));
        }
        Self::open(data_dir)
    }

    /// Opens or makes `data_dir/rules.db` and brings it to this version.
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let path = data_dir.join("rules.db");
        // SQLite would make it readable for all; its journal takes the mode of the file that it finds. Only a missing
        // file is touched: to close any descriptor of the file drops the locks of every connection of this process
        // (POSIX), and another process would then take itself for the last one and remove the journal under us.
        if !path.exists() {
            make_private_file(&path)
                .map_err(|error| StoreError::Refused(format!("{} cannot be opened: {error}", path.display())))?;
        }
        let opened = open(&path).map_err(|error| StoreError::Database { path: path.clone(), error })?;
        let mut store = Self { connection: opened, path, seen: 0, rules: 0, clustered: false, unsure: false };
        store.migrate()?;
        store.seen = store.data_version()?;
        store.rules = store.count_rules()?;
        Ok(store)
    }

    fn migrate(&mut self) -> Result<(), StoreError> {
        let steps = self.within(|transaction| {
            let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
            let Ok(done) = usize::try_from(version) else { return Ok(Err(version)) };
            let Some(steps) = MIGRATIONS.get(done..) else { return Ok(Err(version)) };
            for step in steps {
                transaction.execute_batch(step)?;
            }
            if !steps.is_empty() {
                transaction.pragma_update(None, "user_version", MIGRATIONS.len())?;
            }
            Ok(Ok(()))
        })?;
        steps.map_err(|version| StoreError::TooNew { path: self.path.clone(), version })
    }

    /// Gives back the memory of pages that are kept in case they are wanted again.
    pub fn shrink(&self) {
        // It is only memory: whatever is in the way now is so again the next time.
        let _ = self.connection.pragma_update(None, "cache_size", -PAGE_CACHE_KIB);
        let _ = self.connection.execute_batch("PRAGMA shrink_memory");
    }

    /// Takes memory for an import, until [`Self::shrink`].
    fn expand(&self) {
        // Without it everything works, only slower.
        let _ = self.connection.pragma_update(None, "cache_size", -IMPORT_CACHE_KIB);
    }

    /// Whether another process changed the database since the last call (or since it was opened). Costs no
    /// disk access when nothing happened; ask once a second.
    pub fn changed_by_others(&mut self) -> Result<bool, StoreError> {
        let now = self.data_version()?;
        Ok(std::mem::replace(&mut self.seen, now) != now)
    }

    fn data_version(&self) -> Result<i64, StoreError> {
        let version = self.connection.pragma_query_value(None, "data_version", |row| row.get(0));
        version.map_err(|error| self.failed(error))
    }

    /// Keeps a new token by its hash. The name must not be that of a valid one.
    pub fn add_token(&mut self, name: &str, scope: Scope, secret: &str, now: Timestamp) -> Result<(), StoreError> {
        crate::token::check_name(name).map_err(StoreError::Refused)?;
        let digest = hash(secret);
        let added = self.within(|transaction| {
            let count: usize =
                transaction.query_row("SELECT count(*) FROM token WHERE revoked IS NULL", [], |row| row.get(0))?;
            if count >= TOKENS_MAX {
                return Ok(Err(format!("there are {count} tokens, which is the most; revoke one first")));
            }
            let taken = transaction
                .query_row("SELECT 1 FROM token WHERE name = ?1 AND revoked IS NULL", [name], |_| Ok(()))
                .optional()?;
            if taken.is_some() {
                return Ok(Err(format!("there is a token named {name:?}; revoke it first, or choose another name")));
            }
            transaction.execute(
                "INSERT INTO token (name, scope, sha256, created) VALUES (?1, ?2, ?3, ?4)",
                params![name, scope.as_str(), digest.as_slice(), now.0],
            )?;
            group::audit_token(transaction, now, "token created", name)?;
            Ok(Ok(()))
        })?;
        added.map_err(StoreError::Refused)
    }

    /// Makes the token of that name worthless.
    pub fn revoke_token(&mut self, name: &str, now: Timestamp) -> Result<(), StoreError> {
        let revoked = self.within(|transaction| {
            let query = "UPDATE token SET revoked = ?2 WHERE name = ?1 AND revoked IS NULL";
            let revoked = transaction.execute(query, params![name, now.0])?;
            if revoked > 0 {
                group::audit_token(transaction, now, "token revoked", name)?;
            }
            Ok(revoked)
        })?;
        if revoked == 0 {
            return Err(StoreError::Refused(format!("there is no token named {name:?}")));
        }
        Ok(())
    }

    /// Every valid token, oldest first.
    pub fn tokens(&self) -> Result<TokenSet, StoreError> {
        let read = || {
            let mut statement = self
                .connection
                .prepare_cached("SELECT name, scope, sha256, created FROM token WHERE revoked IS NULL ORDER BY id")?;
            statement.query_map([], token)?.collect::<Result<Vec<_>, _>>()
        };
        read().map(TokenSet::new).map_err(|error| self.failed(error))
    }

    /// Whether there ever was a token of that name, valid or revoked.
    pub fn had_token(&self, name: &str) -> Result<bool, StoreError> {
        let query = "SELECT EXISTS (SELECT 1 FROM token WHERE name = ?1)";
        let had = self.connection.query_row(query, [name], |row| row.get(0));
        had.map_err(|error| self.failed(error))
    }

    /// One transaction: all of `work` is on disk when this returns `Ok`, or none of it: after an error other than
    /// [`StoreError::Unsure`], it is in force on no start either.
    fn within<T>(
        &mut self,
        work: impl FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        self.settle()?;
        // Immediate: a transaction that reads first and writes later could find the lock taken halfway.
        let begun = self.connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let mut unsure = false;
        let done = begun.and_then(|transaction| {
            let result = work(&transaction)?;
            unsure = true;
            transaction.commit()?;
            Ok(result)
        });
        done.map_err(|error| {
            self.unsure = unsure;
            if self.settle().is_ok() {
                self.failed(error)
            } else {
                StoreError::Unsure { path: self.path.clone(), error }
            }
        })
    }

    /// Whether the journal on disk may hold a change that was refused.
    #[must_use]
    pub fn is_unsure(&self) -> bool {
        self.unsure
    }

    /// Sees to it that no start finds what a commit that failed has left in the journal, if one has: only its sync may
    /// have failed, and then it is whole, and the next start would take it for made although its caller heard otherwise.
    ///
    /// # Errors
    /// The disk still refuses. Until it does not, nothing else is written: who tries again later tries this first.
    pub fn settle(&mut self) -> Result<(), StoreError> {
        if self.unsure {
            // A page that says the same as before takes its place. Where that is written and cannot be synced, a kill does no
            // harm any more, but a loss of power does: a page whose sync failed may never be written again by the system.
            let buried = self.connection.pragma_update(None, "user_version", MIGRATIONS.len());
            buried.map_err(|error| self.failed(error))?;
            self.unsure = false;
        }
        Ok(())
    }

    /// Does what no method does, for tests of what then happens.
    #[cfg(test)]
    pub fn spoil(&mut self, sql: &str) {
        self.connection.execute_batch(sql).unwrap();
    }

    fn failed(&self, error: rusqlite::Error) -> StoreError {
        if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) {
            return StoreError::Refused(format!(
                "{} is held by another process for more than {} s; try again",
                self.path.display(),
                BUSY_WAIT.as_secs()
            ));
        }
        StoreError::Database { path: self.path.clone(), error }
    }
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(BUSY_WAIT)?;
    connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    // FULL: a commit that was answered survives a loss of power (WAL with NORMAL may lose the last ones).
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "cache_size", -PAGE_CACHE_KIB)?;
    connection.pragma_update_and_check(None, "wal_autocheckpoint", JOURNAL_PAGES, |_| Ok(()))?;
    connection.pragma_update_and_check(None, "journal_size_limit", JOURNAL_KEPT_BYTES, |_| Ok(()))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    Ok(connection)
}

fn token(row: &Row<'_>) -> rusqlite::Result<Token> {
    let scope: String = row.get(1)?;
    let unknown = || rusqlite::Error::InvalidColumnType(1, scope.clone(), rusqlite::types::Type::Text);
    Ok(Token {
        name: row.get::<_, String>(0)?.into(),
        scope: scope.parse().map_err(|_| unknown())?,
        digest: row.get(2)?,
        created: Timestamp(row.get(3)?),
    })
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
