//! Layers: a specification in, a tree out; one file a kind.

pub mod agent;
pub mod kubernetes;
pub mod os;
pub mod site;
pub mod workload;
