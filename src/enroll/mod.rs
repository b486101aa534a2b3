//! Enrollment: what a box and its fleet say to each other, as bytes in and bytes out. No file, no socket, no clock.
//!
//! Both ends are built on these types: the device (`forge-device`) and the endpoint (`forge fleet serve`).
//!
//! | word | what it is | module |
//! |---|---|---|
//! | bundle | the directory that a device finds at first boot | [`bundle`] |
//! | bootstrap | the document in it that the fleet's roots signed (RFC 8572's bootstrapping data) | [`bootstrap`] |
//! | ticket | the credential in it: a seed that signs one kind of request | [`bundle::Bundle::ticket`] |
//! | inventory | the table of a fleet's boxes | `inventory` |
//! | issuing | inventory and fleet in, signed bundles out | `issue` |
//! | device identity | the key that the device makes for itself, and the name that follows from it | [`identity`] |
//! | signed body | what travels in every request and answer | [`envelope`] |
//! | claim | the device's request to be let in, with its evidence | [`claim`], [`evidence`] |
//! | policy | who is let in without a person | [`policy`] |
//! | request for a certificate | a key and a node's name, and nothing else | [`csr`] |
//! | grant | what comes back, sealed to this device | [`grant`] |
//! | offline request | claim and grant request in one, on a stick | [`offline`] |
//! | code | what a person reads when it does not go on | [`code`] |
//!
//! Authenticity never rests on TLS, which inspecting proxies end, nor on the device's clock, which starts at 1970: bodies
//! are signed, and nonces make them fresh.

pub mod backoff;
pub mod bootstrap;
pub mod bundle;
pub mod claim;
pub mod code;
pub mod csr;
pub mod envelope;
pub mod evidence;
pub mod grant;
pub mod identity;
#[cfg(feature = "cli")]
pub mod inventory;
#[cfg(feature = "cli")]
pub mod issue;
pub mod offline;
pub mod policy;

pub use bootstrap::{Bootstrap, Trust};
pub use bundle::Bundle;
pub use code::Code;
pub use identity::DeviceId;
#[cfg(feature = "cli")]
pub use issue::issue;

/// The largest body of a request or an answer, in bytes.
pub const MAX_BODY: usize = 1 << 20;
