//! The command line: arguments in, stages called, results told.
pub mod ui;
