//! The plan: what a build does, as data.
