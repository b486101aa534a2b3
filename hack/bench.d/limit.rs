//! The least that has to be done: decompresses every package of a directory, and writes what comes out as one tar,
//! hashed as it is written. No files are made, no names looked at, nothing is checked.
//!
//! `bench-limit DIRECTORY TAR [THREADS]`; prints digest and length. One thread streams the largest package into the
//! tar, then what the others have decompressed meanwhile, and helps them when there is nothing to write.

#![allow(clippy::print_stdout, reason = "a program for measuring, not the product's surface")]
#![allow(clippy::disallowed_methods, reason = "its tar goes where the caller says, finished or not")]

use anyhow::{Context as _, bail};
use forge::model::digest::HashingWriter;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{self, TryRecvError};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (directory, out, threads) = match &arguments[..] {
        [directory, out] => (directory, out, 2),
        [directory, out, threads] => (directory, out, threads.parse()?),
        _ => bail!("usage: bench-limit DIRECTORY TAR [THREADS]"),
    };
    let mut packages: Vec<(u64, PathBuf)> = vec![];
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "deb") {
            packages.push((path.metadata()?.len(), path));
        }
    }
    packages.sort();
    let queue = Mutex::new(packages); // the largest last
    let next = || queue.lock().ok().and_then(|mut queue| queue.pop()).map(|(_, path)| path);
    let mut tar = HashingWriter::new(File::create(out)?);
    let first = next().context("there is no package")?;
    let (sender, finished) = mpsc::channel::<Vec<u8>>();
    std::thread::scope(|scope| -> anyhow::Result<()> {
        for _ in 1..threads {
            let sender = sender.clone();
            scope.spawn(move || -> anyhow::Result<()> {
                while let Some(path) = next() {
                    let mut bytes = vec![];
                    decompress(&path, &mut bytes)?;
                    sender.send(bytes)?;
                }
                Ok(())
            });
        }
        drop(sender);
        decompress(&first, &mut tar)?;
        loop {
            match finished.try_recv() {
                Ok(bytes) => tar.write_all(&bytes)?,
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => match next() {
                    Some(path) => decompress(&path, &mut tar)?,
                    None => break,
                },
            }
        }
        for bytes in finished {
            tar.write_all(&bytes)?;
        }
        Ok(())
    })?;
    let (_, digest, length) = tar.finish();
    println!("{digest} {length}");
    Ok(())
}

/// The third member of the `ar` that a package is (deb(5)), without the blocks of zeros that end a tar.
fn decompress(path: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    let mut file = io::BufReader::with_capacity(256 << 10, File::open(path)?);
    file.read_exact(&mut [0; 8])?;
    loop {
        let mut header = [0; 60];
        file.read_exact(&mut header)?;
        let header = std::str::from_utf8(&header)?;
        let (name, size) = (header[..16].trim_end_matches([' ', '/']), header[48..58].trim().parse::<u64>()?);
        if !name.starts_with("data.tar") {
            io::copy(&mut (&mut file).take(size.next_multiple_of(2)), &mut io::sink())?;
            continue;
        }
        let member = file.take(size);
        let mut decoder: Box<dyn Read> = match name {
            "data.tar" => Box::new(member),
            "data.tar.gz" => Box::new(flate2::read::MultiGzDecoder::new(member)),
            "data.tar.xz" => Box::new(liblzma::read::XzDecoder::new_multi_decoder(member)),
            "data.tar.zst" => Box::new(zstd::stream::read::Decoder::new(member)?),
            other => bail!("{} has a {other}", path.display()),
        };
        let mut buffer = vec![0; 256 << 10];
        loop {
            match decoder.read(&mut buffer).with_context(|| path.display().to_string())? {
                0 => return Ok(()),
                n => out.write_all(&buffer[..n])?,
            }
        }
    }
}
