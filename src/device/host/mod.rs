//! The machine under `forge-device`: each module one kind of effect, none of which decides anything.
//!
//! | module | what it does |
//! |---|---|
//! | [`carrier`] | finds bundles on partitions, sticks and in the firmware's credentials |
//! | [`hardware`] | reads what the box says of itself |
//! | [`http`] | one request, one answer, over TLS with pinned keys |
//! | [`link`] | which network ports there are, and what they have |
//! | [`network`] | writes a bundle's network settings for systemd-networkd |
//! | [`resolve`] | names → addresses |
//! | [`screen`] | what a person at the box reads |
//! | [`service`] | systemd: readiness, watchdog, units |
//! | [`time`] | the clock, which never goes below what is known |

pub mod carrier;
pub mod hardware;
pub mod http;
pub mod link;
pub mod network;
pub mod resolve;
pub mod screen;
pub mod service;
pub mod time;
