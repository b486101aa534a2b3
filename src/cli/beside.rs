//! The files beside a profile, as planning asks for them.

use crate::lock::LockedFile;
use crate::model::{Bytes, Digest};
use crate::plan::Beside;
use std::fs::File;
use std::io;
use std::path::Path;

/// The most files of one directory that a profile names; a model or a chart has fewer.
const MAX_FILES: usize = 4096;

/// The profile's directory.
pub struct Directory<'a>(pub &'a Path);

impl Beside for Directory<'_> {
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        std::fs::read(self.0.join(path))
    }

    fn measure(&self, path: &str) -> io::Result<Vec<LockedFile>> {
        let mut found = vec![];
        self.walk(path.trim_end_matches('/'), &mut found)?;
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }
}

impl Directory<'_> {
    /// A link that is named itself is followed; in a directory it is refused, as it may lead anywhere.
    fn walk(&self, path: &str, found: &mut Vec<LockedFile>) -> io::Result<()> {
        let at = self.0.join(path);
        if !std::fs::metadata(&at)?.is_dir() {
            let (digest, size) = Digest::of_reader(File::open(&at)?)?;
            found.push(LockedFile { path: path.into(), size: Bytes(size), digest });
            return Ok(());
        }
        let bad = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
        for entry in std::fs::read_dir(&at)? {
            let entry = entry?;
            let name = entry.file_name().into_string().map_err(|n| bad(format!("{n:?} is not UTF-8")))?;
            let kind = entry.file_type()?;
            if !kind.is_dir() && !kind.is_file() {
                return Err(bad(format!("{name} is neither a file nor a directory")));
            }
            if found.len() >= MAX_FILES {
                return Err(bad(format!("more than {MAX_FILES} files")));
            }
            self.walk(&format!("{path}/{name}"), found)?;
        }
        Ok(())
    }
}
