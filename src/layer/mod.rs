//! Layers: a specification in, a tree out; one file a kind.

pub mod os;
pub mod site;
