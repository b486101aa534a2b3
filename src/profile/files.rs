//! The files that a profile names: found beside it, searched for secrets, and known by their digest.

use super::FileDigest;
use super::diagnostic::{Place, Sources};
use super::fragment::MAX_FILE_BYTES;
use super::shape::{Content, Files, Wrong};
use crate::model::{Bytes, Digest};
use crate::secret;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// The most bytes of a file that is embedded as it is. What is larger belongs into a package, a container or a model.
const MAX_EMBEDDED: u64 = 64 << 20;

/// Files on this machine.
pub struct OnDisk {
    /// The main profile's directory.
    pub dir: PathBuf,
    /// What was embedded so far.
    pub embedded: BTreeMap<String, FileDigest>,
}

impl Files for OnDisk {
    fn note(
        &mut self,
        sources: &Sources,
        place: Place,
        path: &str,
        content: Content,
    ) -> Result<String, Wrong> {
        if content == Content::Key && path.starts_with('/') {
            return Ok(path.into()); // keys live where this machine keeps them, and enter no image
        }
        let path = resolve(sources.dir(place.source), path)?;
        let file = self.dir.join(&path);
        if content == Content::Key {
            return Ok(path);
        }
        let found = match std::fs::metadata(&file) {
            Ok(found) => found,
            Err(error) => return Err(absent(&file, &error)),
        };
        match content {
            Content::Key | Content::Locked => {}
            Content::File | Content::Manifest if !found.is_file() => {
                let help = "name one file; several files are several entries";
                return Err(Wrong::new(format!("`{}` is not a file", file.display()), help));
            }
            Content::File | Content::Manifest if self.embedded.contains_key(&path) => {}
            Content::File | Content::Manifest => {
                let digest = embed(&file, content)?;
                self.embedded.insert(path.clone(), digest);
            }
        }
        Ok(path)
    }

    fn profile(&mut self, path: &str) -> Result<String, Wrong> {
        read_profile(&self.dir.join(path))
    }

    fn name(&self, path: &str) -> String {
        self.dir.join(path).display().to_string()
    }
}

/// No files at all: for a profile that is only text. Paths are taken as they are.
pub struct Nowhere;

impl Files for Nowhere {
    fn note(&mut self, sources: &Sources, place: Place, path: &str, _: Content) -> Result<String, Wrong> {
        resolve(sources.dir(place.source), path)
    }

    fn profile(&mut self, path: &str) -> Result<String, Wrong> {
        Err(Wrong::new(
            format!("`{path}` is out of reach"),
            "this profile was given as text; name a file to extend others",
        ))
    }

    fn name(&self, path: &str) -> String {
        path.into()
    }
}

/// The text of a profile file.
///
/// # Errors
/// When it is missing, too long or not UTF-8.
pub fn read_profile(file: &Path) -> Result<String, Wrong> {
    let open = std::fs::File::open(file).map_err(|error| absent(file, &error))?;
    let mut bytes = vec![];
    open.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(|error| absent(file, &error))?;
    if bytes.len() > MAX_FILE_BYTES {
        let limit = Bytes(MAX_FILE_BYTES as u64);
        return Err(Wrong::new(
            format!("`{}` is larger than {limit}", file.display()),
            "a profile names big files, it does not hold them",
        ));
    }
    String::from_utf8(bytes)
        .map_err(|_| Wrong::new(format!("`{}` is not UTF-8", file.display()), "TOML is UTF-8 text"))
}

fn absent(file: &Path, error: &std::io::Error) -> Wrong {
    let shown = file.display();
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            let help = "paths are relative to the file that names them";
            Wrong::new(format!("there is no file `{shown}`"), help)
        }
        _ => Wrong::new(format!("`{shown}` cannot be read: {error}"), "make it a readable file"),
    }
}

fn embed(file: &Path, content: Content) -> Result<FileDigest, Wrong> {
    let shown = file.display();
    let mut bytes = vec![];
    std::fs::File::open(file)
        .and_then(|open| open.take(MAX_EMBEDDED + 1).read_to_end(&mut bytes))
        .map_err(|error| absent(file, &error))?;
    if bytes.len() as u64 > MAX_EMBEDDED {
        let help = "put it into a package, an image of a registry or a model";
        return Err(Wrong::new(format!("`{shown}` is larger than {}", Bytes(MAX_EMBEDDED)), help));
    }
    let text = String::from_utf8_lossy(&bytes);
    if let Some(secret) = secret::find(&text) {
        let line = text[..secret.start as usize].lines().count().max(1);
        return Err(in_file(&shown, line, secret.what));
    }
    if content == Content::Manifest
        && let Some(line) = text.lines().position(|line| line.trim_end() == "kind: Secret")
    {
        return Err(in_file(&shown, line + 1, "a Kubernetes Secret"));
    }
    Ok(FileDigest { digest: Digest::of(&bytes), size: bytes.len() as u64 })
}

fn in_file(shown: &impl std::fmt::Display, line: usize, what: &str) -> Wrong {
    Wrong::new(format!("`{shown}` holds {what} in line {line}"), secret::HELP)
}

/// `path`, named by a file in `dir`, from the main profile's directory, without `.` and inner `..`.
///
/// # Errors
/// When it is empty, absolute or holds control characters.
pub fn resolve(dir: &str, path: &str) -> Result<String, Wrong> {
    let shown: String = path.chars().take(200).collect();
    if path.is_empty() || path.chars().any(char::is_control) || path.len() > 4095 {
        return Err(Wrong::new(
            format!("`{}` is not a path", shown.escape_debug()),
            "a path such as `files/motd`",
        ));
    }
    if path.starts_with('/') {
        let help = "a path relative to this file: an absolute one means nothing on another machine";
        return Err(Wrong::new(format!("`{shown}` is absolute"), help));
    }
    let mut parts: Vec<&str> = vec![];
    for part in dir.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    Ok(if parts.is_empty() { ".".into() } else { parts.join("/") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_start_at_the_file_that_names_them() {
        for (dir, path, resolved) in [
            ("", "files/motd", "files/motd"),
            ("base", "files/motd", "base/files/motd"),
            ("base", "../files/./motd", "files/motd"),
            ("base", "../../keys/k", "../keys/k"),
            ("../shared", "x//y", "../shared/x/y"),
            ("base", "..", "."),
        ] {
            assert_eq!(resolve(dir, path).unwrap(), resolved, "{dir} {path}");
        }
        for path in ["", "/etc/passwd", "a\nb", "a\0b"] {
            assert!(resolve("", path).is_err(), "{path:?}");
        }
    }
}
