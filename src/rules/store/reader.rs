//! A second connection that only reads: who looks something up through it does not wait behind a commit. Sees what is
//! committed, as of each look. Writes nothing.

use super::{RULES_MAX, Store, StoreError, open};
use rusqlite::OptionalExtension;
use std::sync::{Arc, Mutex, PoisonError};

/// For any thread; they take turns.
#[derive(Clone, Debug)]
pub struct Reader(Arc<Mutex<Store>>);

impl Store {
    /// Another connection to the same database.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn reader(&self) -> Result<Reader, StoreError> {
        let opened = open(&self.path).and_then(|connection| {
            connection.pragma_update(None, "query_only", true)?;
            Ok(connection)
        });
        let connection = opened.map_err(|error| self.failed(error))?;
        let store =
            Self { connection, path: self.path.clone(), seen: 0, rules: 0, clustered: self.clustered, unsure: false };
        Ok(Reader(Arc::new(Mutex::new(store))))
    }

    /// Whether there are as many rules as there may be, as the database has them. Counts them only if that may be so.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn is_full(&self) -> Result<bool, StoreError> {
        let query = "SELECT position FROM rule ORDER BY position DESC LIMIT 1";
        let last = || self.connection.prepare_cached(query)?.query_row([], |row| row.get::<_, u64>(0)).optional();
        let last = last().map_err(|error| self.failed(error))?;
        Ok(last.is_some_and(|last| last >= RULES_MAX) && self.count_rules()? >= RULES_MAX)
    }
}

impl Reader {
    /// Looks something up. What counts rules as they are in memory is not for it.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn look<T>(&self, read: impl FnOnce(&Store) -> Result<T, StoreError>) -> Result<T, String> {
        let store = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        read(&store).map_err(|error| error.to_string())
    }
}
