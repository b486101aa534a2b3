//! Integration tests, a file a stage.

mod bootstrap;
mod archive;
mod support;
