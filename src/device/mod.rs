//! The device's side of enrollment: from a bundle to a joined node, whatever happens in between.
//!
//! | part | what it turns into what | module |
//! |---|---|---|
//! | effects | what is asked of the box, as traits | [`effects`] |
//! | store | bytes → an artefact that is whole and durable, or absent | [`store`] |
//! | artefacts | the disk → how far the device is | [`artefact`], [`state`] |
//! | bundle | carriers → the one bundle to go by | [`adopt`] |
//! | identity | randomness → keys; a disk in other hardware → none | [`identity`] |
//! | certificate | a key that stays here → a request that a cluster's authority signs | [`certificate`] |
//! | calls | a request → an answer that the fleet signed for it | [`talk`] |
//! | steps | state → the next one | [`advance`](mod@advance), [`fleet`] |
//! | TPM | a challenge of the fleet → its answer | `attest` |
//! | offline | a stick out with a request, and back with a grant | [`offline`] |
//! | install | a sealed grant → files in their places | [`install`] |
//! | events | what happened → a queue for the fleet | [`event`] |
//! | waits | why nothing can be done now → how long | [`pause`], [`run`](mod@run) |
//! | box | the effects on a real machine | [`host`] |
//! | configuration | an image's and a grant's → a service's one file | [`configuration`] |
//! | program | arguments → the machine on that box | [`program`] |
//! | view | what a person at the box is told | [`view`] |
//!
//! The machine decides; [`effects::Effects`] does. So it runs on a box, and ten thousand times in a test that takes the
//! power away between any two effects.

pub mod adopt;
pub mod advance;
pub mod agent;
pub mod artefact;
mod attest;
pub mod certificate;
pub mod configuration;
pub mod effects;
pub mod event;
pub mod fleet;
pub mod host;
pub mod identity;
pub mod install;
pub mod offline;
pub mod pause;
pub mod program;
pub mod run;
pub mod state;
pub mod store;
pub mod talk;
pub mod view;

pub use advance::advance;
pub use agent::{Device, Step};
pub use run::{Pacer, run, turn};
