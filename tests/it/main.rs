//! Integration tests, a file a stage.

mod bootstrap;
