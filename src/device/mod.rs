//! The device's side of enrollment: from a bundle to a joined node, whatever happens in between.
//!
//! | part | what it is | module |
//! |---|---|---|
//! | effects | what is asked of the box, as traits | [`effects`] |
//! | host | the real box under the traits | [`host`] |
//! | program | the program `forge-device` | [`program`] |
//! | state | how far the device is, derived from its disk | [`state`] |
//! | view | what a person at the box is told | [`view`] |

pub mod effects;
pub mod host;
pub mod program;
pub mod state;
pub mod view;
