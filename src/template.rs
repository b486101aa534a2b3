//! The files of `templates/`, embedded: the only place that does so.

/// The names of the IANA time zone database (2025b), one a line, sorted.
pub const TIME_ZONES: &str = include_str!("../templates/profile/time-zones.txt");
