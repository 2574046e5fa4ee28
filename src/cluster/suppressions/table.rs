//! What is stored here, as the difference to what etcd holds reads it: page by page, asked of the rules' thread.

use super::Grounds;
use super::difference::{Row, Table};
use crate::rules::authority::{Authority, Failure};
use crate::rules::store::{Store, StoreError};
use futures_lite::future::block_on;
use std::sync::Arc;

/// The suppressions of the store. Keeps whoever asks waiting while the rules' thread does something else.
pub struct StoredTable(pub Authority);

impl StoredTable {
    /// How many there are.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn count(&self) -> Result<u64, String> {
        self.look(Store::count_suppressions)
    }

    fn look<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, String> {
        block_on(self.0.read(read)).map_err(|failure| match failure {
            Failure::Unavailable(why) => why,
            other => format!("suppressions cannot be read: {other:?}"),
        })
    }
}

impl Table for StoredTable {
    type Error = String;

    fn rows_after(&mut self, value: &str, limit: u32) -> Result<Vec<Row>, String> {
        let after: Arc<str> = value.into();
        let rows = self.look(move |store| store.known_suppressions(&after, limit))?;
        let row = |(entry, token, is_shared): (crate::rules::change::Suppression, Arc<str>, bool)| Row {
            value: entry.value,
            grounds: Grounds { verdict: entry.verdict, token },
            is_shared,
        };
        Ok(rows.into_iter().map(row).collect())
    }
}
