//! forge turns a short, declarative site profile into signed, bootable images for Kubernetes at the edge.
//!
//! # The data's way
//!
//! Each stage is a type and a function; nothing flows back.
//!
//! | stage | in → out | function | may touch |
//! |---|---|---|---|
//! | [`profile`] | TOML → [`profile::Profile`] | [`profile::load`] | reads files |
//! | [`lock`] | [`lock::Demand`] → [`lock::Lock`] | [`lock::resolve()`]; [`lock::Lock::check`] offline | network |
//! | [`plan`] | profile, lock, epoch → [`plan::Plan`] | [`plan::compose`] | nothing |
//! | [`build`] | plan → [`build::Built`] | [`build::run`] | cache, inputs fetched by digest, a sandbox |
//! | [`release`] | built → [`release::Release`] | [`release::seal`]; back by [`release::verify`] | keys |
//! | [`publish`] | release → registry | [`publish::push`] | registry |
//! | [`enroll`] | fleet keys, inventory → bundles | [`enroll::issue()`], onto a [`carrier`] | nothing |
//! | [`run`] | disk image → a booted device | [`run::run`] | pinned tools ([`toolbox`]) |
//!
//! The order inside `build` is a fact of security: packages → root file system → **root hash → command line → kernel
//! image** → ESP and disk → OCI digests → **signatures**.
//!
//! # What lies where
//!
//! `PROFILE.lock` beside the profile: every input by digest. `dist/SITE/VERSION/`: a release. The cache:
//! `blobs/` fetched inputs by digest, `steps/` what steps made by the key of all that decides it, `tools/` unpacked tools,
//! `work/` and `run/` intermediate files.
//!
//! # Who may know whom
//!
//! words ([`model`], [`error`]) ← edges and shapes ([`host`], [`tree`], [`template`], [`oci`]) ← domain ([`profile`],
//! [`source`], [`debian`], [`boot`], [`disk`], [`layer`], [`sign`], [`seal`]) ← decisions ([`lock`], [`plan`]) ← effects
//! ([`build`], [`release`], [`publish`], [`run`], [`toolbox`]) ← surface ([`cli`]). A test holds this against the code, room
//! by room.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests plant and inspect files"))]

pub mod boot;
pub mod build;
pub mod carrier;
pub mod cli;
pub mod contents;
pub mod debian;
pub mod device;
pub mod disk;
pub mod enroll;
pub mod error;
pub mod fleet;
pub mod host;
pub mod inspect;
pub mod layer;
pub mod lock;
pub mod model;
pub mod oci;
pub mod plan;
pub mod profile;
pub mod publish;
pub mod release;
pub mod run;
pub mod seal;
pub mod sign;
pub mod source;
pub mod template;
pub mod toolbox;
pub mod tree;
