//! Profile: TOML as typed, merged over its bases, then what is true.
