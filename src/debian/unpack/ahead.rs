//! Packages whose turn comes later → their contents, decompressed and checked, in files without a name.
//!
//! A package with a `preinst` may touch the tree only after that script has run, and the script only after what it needs
//! is configured. Decompressing it does not touch the tree, so a thread does it meanwhile: of a bootable system, the
//! kernel is half of all bytes.

use super::super::deb::Deb;
use super::{BUFFER, Hashed, Source};
use anyhow::Context as _;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Work that a thread does ahead; its results by rank.
pub struct Ahead {
    directory: PathBuf,
    coming: HashMap<usize, Receiver<anyhow::Result<File>>>,
}

impl Ahead {
    /// Starts on `sources`, the largest first, with files on the file system of `directory`; with one thread when
    /// `parallel`, else each package waits to be asked for.
    ///
    /// # Errors
    /// When a package cannot be looked at.
    pub fn start(directory: &Path, mut sources: Vec<Source>, parallel: bool) -> anyhow::Result<Ahead> {
        let mut ahead = Ahead { directory: directory.into(), coming: HashMap::new() };
        if !parallel || sources.is_empty() {
            return Ok(ahead);
        }
        let mut lengths = HashMap::new();
        for source in &sources {
            lengths.insert(source.rank, source.file.metadata()?.len());
        }
        sources.sort_by_key(|s| (std::cmp::Reverse(lengths.get(&s.rank).copied()), s.rank));
        let mut work: Vec<(Source, SyncSender<anyhow::Result<File>>)> = vec![];
        for source in sources {
            let (sender, receiver) = sync_channel(1);
            ahead.coming.insert(source.rank, receiver);
            work.push((source, sender));
        }
        let directory = ahead.directory.clone();
        // Not waited for: it ends with the last package, or with the process.
        std::thread::spawn(move || {
            for (source, sender) in work {
                let _ = sender.send(contents(&source, &directory)); // when nobody waits any more, all has failed
            }
        });
        Ok(ahead)
    }

    /// Gives `source` its contents; from here on its control information is known to be what was promised, too.
    ///
    /// # Errors
    /// A package that is damaged or has another digest.
    pub fn finish(&mut self, source: &mut Source) -> anyhow::Result<()> {
        let result = match self.coming.remove(&source.rank) {
            Some(receiver) => receiver.recv().context("decompressing ahead")?,
            None => contents(source, &self.directory),
        };
        source.data = Some(result.with_context(|| format!("unpacking {}", source.name))?);
        Ok(())
    }
}

fn contents(source: &Source, directory: &Path) -> anyhow::Result<File> {
    let mut out = crate::host::fs::anonymous(directory)?;
    let hashed = Hashed::new(&source.file)?;
    let (deb, control) = Deb::open(io::BufReader::with_capacity(BUFFER, &hashed))?;
    let mut data = io::BufReader::with_capacity(BUFFER, deb.data_tar()?);
    io::copy(&mut data, &mut out)?;
    drop(data);
    hashed.check(source.sha256)?;
    source.same(&control)?;
    Ok(out)
}
