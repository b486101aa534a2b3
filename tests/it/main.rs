//! Integration tests, a file a stage.

mod golden;
mod profile;
