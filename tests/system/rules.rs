//! Rules over mail that waits, on the real binary.
