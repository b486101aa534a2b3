//! Integration tests, a file a stage.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests run programs and plant files")]
#![allow(clippy::print_stdout, reason = "a skipped test says so")]
mod podman;
