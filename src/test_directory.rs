//! A directory of its own for each test, gone when the test ends.

use std::path::{Path, PathBuf};

/// Removed with its content when dropped.
pub struct TestDirectory(PathBuf);

impl TestDirectory {
    /// `name` is the test's, unique in this package.
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mailrace-test-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TestDirectory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
