//! Walks a plan: the only place with threads, and with effects on the cache.

pub mod cache;
pub mod observe;
