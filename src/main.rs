//! forge: parse, dispatch, exit code.

fn main() {}
