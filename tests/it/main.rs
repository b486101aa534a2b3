//! Integration tests, a file a stage.

mod archive;
mod bootstrap;
mod support;
