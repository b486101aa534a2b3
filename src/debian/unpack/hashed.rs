//! A package's file that is hashed as it is read, once, whoever reads which part.

use crate::model::Digest;
use crate::model::digest::Hasher;
use anyhow::anyhow;
use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};

/// Hashes what is read of a file; shared by the reader of the package and by who finishes the digest.
pub(in crate::debian) struct Hashed<'a> {
    file: &'a File,
    hasher: RefCell<Hasher>,
}

impl<'a> Hashed<'a> {
    /// Starts at the file's beginning.
    pub(in crate::debian) fn new(mut file: &'a File) -> io::Result<Hashed<'a>> {
        io::Seek::rewind(&mut file)?;
        Ok(Hashed { file, hasher: RefCell::default() })
    }

    /// Reads to the end and compares the digest of all bytes.
    pub(in crate::debian) fn check(self, wanted: Digest) -> anyhow::Result<()> {
        io::copy(&mut io::BufReader::with_capacity(super::BUFFER, &self), &mut io::sink())?;
        let (digest, _) = self.hasher.into_inner().finish();
        if digest == wanted {
            return Ok(());
        }
        Err(crate::error::of(crate::error::Kind::Verify, anyhow!("its digest is {digest}, not {wanted}")))
    }
}

impl Read for &Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = (&mut &*self.file).read(buffer)?;
        self.hasher.borrow_mut().update(&buffer[..n]);
        Ok(n)
    }
}
