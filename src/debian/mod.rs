//! Debian and Ubuntu archives: from a suite's name to a configured tree.
