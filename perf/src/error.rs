//! The one error of the harness: a sentence for the operator.
//!
//! Nobody decides by it; whatever fails ends the run, cleans up and is printed.

use std::fmt::{self, Display};

/// What went wrong, as a sentence.
#[derive(Debug)]
pub struct Failure(pub String);

/// Shorthand.
pub type Result<T> = std::result::Result<T, Failure>;

impl Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// Adds what was being done to an error.
pub trait Context<T> {
    /// `doing` reads well after "cannot".
    fn context(self, doing: impl Display) -> Result<T>;
}

impl<T, E: Display> Context<T> for std::result::Result<T, E> {
    fn context(self, doing: impl Display) -> Result<T> {
        self.map_err(|error| Failure(format!("cannot {doing}: {error}")))
    }
}

/// A failure with this message.
pub fn fail<T>(message: impl Into<String>) -> Result<T> {
    Err(Failure(message.into()))
}
