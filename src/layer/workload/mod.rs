//! Workloads: container images and Kubernetes manifests in, the payload partition's tree out.
//!
//! | module | in → out |
//! |---|---|
//! | [`name`] | `image:` as written → the one name that Podman looks up |
//! | [`manifest`] | Kubernetes YAML → the images and host ports in it, or a fault with its line |
//! | [`chart`] | a Helm chart → its images, and the object that it is installed from |
//! | [`container`] | packages' tree + files + command → an OCI image |
//! | [`archive`] | the same images → the tree of an OCI layout, which becomes an archive that containerd imports |
//! | [`gitops`] | a repository → the object that tells Flux or Argo CD to follow it |
//! | [`model`] | files → their place in the payload, and a unit that mounts them |
//! | [`store`] | OCI images → a containers/storage image store that Podman reads where it lies |
//! | [`vm`] | a guest's disk → a unit that runs QEMU, or an object of KubeVirt's |
//!
//! What runs them, and how they are started, is the business of [`crate::layer::kubernetes`].

pub mod archive;
pub mod chart;
pub mod container;
pub mod gitops;
pub mod manifest;
pub mod model;
pub mod name;
pub mod store;
pub mod vm;

use crate::tree::Content;

/// A workload: manifests that are started together.
#[derive(Clone, Debug)]
pub struct Workload {
    /// A DNS label: the directory, and what its units are named for.
    pub name: String,
    /// The boot is good only when it runs.
    pub required: bool,
    /// Its files, parsed and as they are.
    pub manifests: Vec<(manifest::Manifest, Content)>,
}

/// Where the payload partition is mounted on the device, read-only, before the root is switched.
pub const PAYLOAD: &str = "/usr/lib/forge/payload";
/// Directory of the image store, below the payload's root.
pub const IMAGES: &str = "images";
/// Directory of the workloads' manifests, below the payload's root.
pub const WORKLOADS: &str = "workloads";
