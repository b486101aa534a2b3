//! Layers: a specification in, a tree out; one file a kind.

pub mod kubernetes;
pub mod workload;
pub mod os;
pub mod site;
