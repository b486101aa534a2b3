//! Expected results that are kept beside what they are expected of.

use std::path::Path;

/// Compares `actual` with the file at `path`, or writes the file when `UPDATE_GOLDEN=1`.
///
/// # Errors
/// A difference, with both texts.
pub fn compare(path: &Path, actual: &str) -> Result<(), String> {
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|v| v == "1") {
        std::fs::write(path, actual).map_err(|error| format!("writing {}: {error}", path.display()))?;
        return Ok(());
    }
    let expected = std::fs::read_to_string(path).unwrap_or_default();
    if expected == actual {
        return Ok(());
    }
    Err(format!("{} differs\n--- expected\n{expected}\n--- actual\n{actual}", path.display()))
}
