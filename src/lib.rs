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
//! | [`seed`] | profile, inventory → what boxes with other systems are told | [`seed::emit`], onto a [`carrier`] | nothing |
//! | [`flash`] | disk image, bundle → a disk or stick, read back | [`flash::write`] | a disk that was confirmed |
//! | [`run`] | disk image → a booted device | [`run::run`] | pinned tools ([`toolbox`]) |
//! | [`trial`] | disk image → does it join its fleet? | [`trial::Trial::run`] | pinned tools, a fleet of its own |
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
//! words ([`model`], [`error`]) ← edges and shapes ([`host`], [`tree`], [`template`], [`oci`], [`secret`]) ← domain ([`profile`],
//! [`source`], [`debian`], [`boot`], [`board`], [`disk`], [`layer`], [`sign`], [`seal`]) ← decisions ([`lock`], [`plan`], [`attest`]) ← effects
//! ([`build`], [`release`], [`publish`], [`flash`], [`run`], [`toolbox`]) ← surface ([`cli`]). A test holds this against the code, room
//! by room.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests plant and inspect files"))]

#[cfg(feature = "cli")]
pub mod attest;
#[cfg(feature = "cli")]
pub mod board;
#[cfg(feature = "cli")]
pub mod boot;
#[cfg(feature = "cli")]
pub mod build;
#[cfg(feature = "cli")]
pub mod carrier;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "cli")]
pub mod contents;
#[cfg(feature = "cli")]
pub mod debian;
pub mod device;
pub mod disk;
pub mod enroll;
pub mod error;
#[cfg(feature = "cli")]
pub mod flash;
#[cfg(feature = "cli")]
pub mod fleet;
pub mod host;
#[cfg(feature = "cli")]
pub mod inspect;
#[cfg(feature = "cli")]
pub mod layer;
#[cfg(feature = "cli")]
pub mod lock;
pub mod model;
#[cfg(feature = "cli")]
pub mod oci;
#[cfg(feature = "cli")]
pub mod plan;
#[cfg(feature = "cli")]
pub mod profile;
#[cfg(feature = "cli")]
pub mod publish;
#[cfg(feature = "cli")]
pub mod release;
#[cfg(feature = "cli")]
pub mod run;
#[cfg(feature = "cli")]
pub mod seal;
#[cfg(feature = "cli")]
pub mod secret;
#[cfg(feature = "cli")]
pub mod seed;
pub mod sign;
#[cfg(feature = "cli")]
pub mod source;
#[cfg(feature = "cli")]
pub mod template;
#[cfg(feature = "cli")]
pub mod toolbox;
pub mod tpm;
#[cfg(feature = "cli")]
pub mod tree;
#[cfg(feature = "cli")]
pub mod trial;
