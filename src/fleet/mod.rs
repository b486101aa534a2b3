//! The fleet's endpoint: what boxes claim with, and what operators see and say.
//!
//! | part | in → out | module |
//! |---|---|---|
//! | service | a request and the time → a signed answer; no socket | [`service`] |
//! | exchange | the shapes of request, refusal, reply | [`exchange`] |
//! | claims | a signed claim → where the device stands; first claim binds | [`claim`] |
//! | grants | material → sealed, numbered, signed, kept a day | [`granting`] |
//! | clusters | a device → what it joins its cluster with | [`cluster`] |
//! | sticks | a request that came by hand → a grant that goes back so | [`offline`] |
//! | store | work → a commit that is on the disk before anybody is answered | [`store`], [`record`] |
//! | nonces, limits | stateless freshness; buckets by ticket | [`nonce`], [`limit`] |
//! | operators | an order, or a question → the database | [`operator`] |
//! | the directory | keys, certificate, settings, grants' files | [`home`] |
//! | sockets | TLS and HTTP around the service; the page; counts | [`server`], [`http`], [`page`], [`metrics`] |
//! | a second key | for the place of one box → who has it | [`succession`] |
//! | TPMs | a challenge that one TPM alone can answer, makers that are trusted | [`attest`], [`makers`] |
//! | audit | what happened, as a table and a file | [`audit`] |
//!
//! Each request is at most one transaction. An endpoint that dies has done it or has not; devices repeat themselves, and
//! every call is idempotent.

pub mod attest;
pub mod audit;
pub mod claim;
pub mod cluster;
pub mod exchange;
pub mod granting;
pub mod home;
pub mod http;
pub mod limit;
pub mod makers;
pub mod metrics;
pub mod nonce;
pub mod offline;
pub mod operator;
pub mod page;
pub mod record;
pub mod server;
pub mod service;
pub mod store;
pub mod succession;

pub use exchange::{Request, Response};
pub use granting::GrantSource;
pub use home::Home;
pub use record::Device;
pub use service::{Identity, Service, Settings};
pub use store::Store;
