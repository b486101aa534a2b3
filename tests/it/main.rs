//! Integration tests, a file a stage.
