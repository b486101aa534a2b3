//! forge turns a short, declarative site profile into signed, bootable images for Kubernetes at the edge.
//!
//! # The data's way
//!
//! | stage | in → out | function | may touch |
//! |---|---|---|---|
//! | [`profile`] | TOML → `Profile` | `profile::load` | reads files |
//! | [`lock`] | `&Profile` → `Lock` | `lock::resolve`; `Lock::check` offline | network |
//! | [`plan`] | `&Profile, &Lock, Epoch` → `Plan` | `plan::compose` | nothing |
//! | [`build`] | `&Plan` → `Built` | `build::run` | pinned tools, cache, fetch by digest |
//!
//! # Who may know whom
//!
//! words ([`model`], [`error`]) ← edges and shapes ([`host`], [`tree`], [`template`], [`oci`]) ← domain ([`profile`],
//! [`source`], [`debian`], [`layer`], [`boot`], [`disk`], [`sign`]) ← decisions ([`lock`], [`plan`]) ← effects
//! ([`build`]) ← surface ([`cli`]). A test holds this against the code.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests plant and inspect files"))]

pub mod boot;
pub mod build;
pub mod cli;
pub mod contents;
pub mod debian;
pub mod disk;
pub mod error;
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
