//! The environment, read where the program starts and passed down as values.

use std::path::PathBuf;

/// The value of `name`, where it is set, not empty, and UTF-8.
pub fn var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

/// Everything, for a program of the user's own that works on the user's behalf (a key agent's client).
pub fn all() -> std::env::VarsOs {
    std::env::vars_os()
}

/// The user's cache directory for forge: `$XDG_CACHE_HOME/forge`, else `~/.cache/forge`.
pub fn cache_dir() -> Option<PathBuf> {
    xdg("XDG_CACHE_HOME", ".cache")
}

/// The user's configuration directory for forge: `$XDG_CONFIG_HOME/forge`, else `~/.config/forge`.
pub fn config_dir() -> Option<PathBuf> {
    xdg("XDG_CONFIG_HOME", ".config")
}

fn xdg(variable: &str, default: &str) -> Option<PathBuf> {
    // The XDG base directory specification says to ignore a relative path.
    let base = var(variable).map(PathBuf::from).filter(|p| p.is_absolute());
    base.or_else(|| Some(PathBuf::from(var("HOME")?).join(default))).map(|p| p.join("forge"))
}

/// The program that is running, for starting it again in a sandbox.
///
/// # Errors
/// Where /proc is not mounted.
pub fn program() -> std::io::Result<PathBuf> {
    std::env::current_exe()
}
