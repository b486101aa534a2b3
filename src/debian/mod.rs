//! Debian and Ubuntu archives: from a suite's name to a configured tree.
//!
//! | file | in → out |
//! |---|---|
//! | [`sources`] | the machine's apt configuration → where a distribution's archive is |
//! | [`openpgp`] | clear-signed text, keyring → the text that a trusted key signed |
//! | [`release`] | that text → dates, names, digests of the indices |
//! | [`deb822`] | control text → paragraphs → fields |
//! | [`packages`] | `Packages` files → `Index` |
//! | [`version`], [`relation`] | the words of dependencies |
//! | [`solve`] | index, request → the set of packages that apt would install |
//! | [`archive`] | all of it over HTTP: sources → index; packages → verified blobs |
//! | [`deb`] | a package → its control information and contents |
//! | [`unpack`], [`rules`] | packages → files below a directory |
//! | [`database`] | control information → what dpkg remembers |
//! | [`configure`] | dependencies → waves; scripts and dpkg in the sandbox |
//! | [`stand_in`] | programs that must not run, or run ahead, while packages are configured |
//! | [`clean`] | a configured tree → one without traces of its making |
//! | [`bootstrap`] | all of it: packages on disk → one deterministic tar |

pub mod archive;
pub mod bootstrap;
pub mod clean;
pub mod configure;
pub mod database;
pub mod deb;
pub mod deb822;
pub mod openpgp;
pub mod packages;
pub mod relation;
pub mod release;
pub mod rules;
pub mod solve;
pub mod sources;
pub mod stand_in;
pub mod unpack;
pub mod version;
