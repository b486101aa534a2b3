//! Inputs from outside, one file a kind: a reference in, a verified blob by digest out.

pub mod blobs;
pub mod oci;
pub mod release;
pub mod remote;
