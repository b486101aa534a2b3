//! Words of the domain: validated values that every other room speaks. Knows nothing of files, formats or the network.

pub mod arch;
pub mod digest;
pub mod guid;
pub mod name;
pub mod units;

pub use arch::Arch;
pub use digest::Digest;
pub use guid::Guid;
pub use name::{LayerName, SiteName};
pub use units::{Bytes, Epoch};
