//! What runs Kubernetes manifests on the device; one file a distribution, all of one shape.
//!
//! A distribution turns its specification into a tree for the OS side (configuration and units that no workload
//! changes) and a tree for the payload side (the workloads themselves), and names the packages that it needs. [`podman`]
//! has no API server; [`k3s`] and [`rke2`] are two sets of names for what [`cluster`] does.

pub mod cluster;
pub mod k3s;
pub mod podman;
pub mod rke2;
