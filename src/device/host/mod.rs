//! The machine under `forge-device`: each module one kind of effect, none of which decides anything.
//!
//! | module | what it does |
//! |---|---|
//! | [`announce`] | says over multicast DNS where the page is |
//! | [`carrier`] | finds bundles on partitions, sticks and in the firmware's credentials |
//! | [`hardware`] | reads what the box says of itself |
//! | [`http`] | one request, one answer, over TLS with pinned keys |
//! | [`link`] | which network ports there are, and what they have |
//! | [`machine`] | all of it, as the state machine asks for it |
//! | [`network`] | writes a bundle's network settings for systemd-networkd |
//! | [`page`] | the box's own page, for somebody beside it |
//! | [`resolve`] | names → addresses |
//! | [`screen`] | what a person at the box reads |
//! | [`service`] | systemd: readiness, watchdog, units |
//! | [`time`] | the clock, which never goes below what is known |
//! | [`tpm`] | a TPM's proof of its endorsement key |
//! | [`vault`] | secrets at rest |
//! | [`wake`] | notices cables, addresses and sticks |

pub mod announce;
pub mod carrier;
pub mod hardware;
pub mod http;
pub mod link;
pub mod machine;
pub mod network;
pub mod page;
pub mod resolve;
pub mod screen;
pub mod service;
pub mod time;
pub mod tpm;
pub mod vault;
pub mod wake;
