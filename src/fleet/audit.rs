//! What happened, in order: a table that is written with what it tells of, and a file of JSON lines that follows it.
//!
//! The file is for shippers of logs and is only ever appended to. It is written from the table after the commit, so
//! nothing stands in it that did not happen; after a crash the missing lines are written first. No secret gets here:
//! entries are built from ids, names and reasons.

use crate::enroll::DeviceId;
use crate::fleet::Store;
use crate::model::Epoch;
use anyhow::Context as _;
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Lines that are written to the file at a time.
const PORTION: u32 = 1000;

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Counts entries.
    pub seq: i64,
    /// The fleet's clock.
    pub at: Epoch,
    /// `device`, `policy`, or the operator.
    pub actor: String,
    /// What was done: `claim`, `approve`, `alarm`, …
    pub action: String,
    /// To which device.
    pub device: Option<String>,
    /// In words.
    pub detail: String,
}

/// Notes what is done in the same transaction.
///
/// # Errors
/// What the database says.
pub fn note(
    connection: &Connection,
    now: Epoch,
    actor: &str,
    action: &str,
    device: Option<&DeviceId>,
    detail: &str,
) -> anyhow::Result<()> {
    connection
        .prepare_cached("INSERT INTO audit (at, actor, action, device, detail) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![now.0, actor, action, device.map(DeviceId::as_str), detail])?;
    Ok(())
}

/// The newest entries about `device`, or all; newest first.
///
/// # Errors
/// What the database says.
pub fn newest(connection: &Connection, device: Option<&DeviceId>, most: u32) -> anyhow::Result<Vec<Entry>> {
    select(
        connection,
        "WHERE ?1 IS NULL OR device = ?1 ORDER BY seq DESC LIMIT ?2",
        params![device.map(DeviceId::as_str), most],
    )
}

fn select(
    connection: &Connection,
    rest: &str,
    parameters: impl rusqlite::Params,
) -> anyhow::Result<Vec<Entry>> {
    let sql = format!("SELECT seq, at, actor, action, device, detail FROM audit {rest}");
    let mut query = connection.prepare_cached(&sql)?;
    let rows = query.query_map(parameters, |row| {
        Ok(Entry {
            seq: row.get(0)?,
            at: Epoch(row.get(1)?),
            actor: row.get(2)?,
            action: row.get(3)?,
            device: row.get(4)?,
            detail: row.get(5)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The file that follows the table.
pub struct Trail {
    file: File,
    written: i64,
}

impl Trail {
    /// Opens the file at `path`, made when missing, and finds where it ends.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn open(path: &Path) -> anyhow::Result<Trail> {
        let opening = || format!("opening {}", path.display());
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .with_context(opening)?;
        let (mut written, mut whole) = (0, true);
        for line in BufReader::new(&file).split(b'\n') {
            match serde_json::from_slice::<Entry>(&line.with_context(opening)?) {
                Ok(entry) => (written, whole) = (entry.seq, true),
                Err(_) => whole = false, // cut by a crash
            }
        }
        if !whole {
            file.write_all(b"\n").with_context(opening)?;
        }
        Ok(Trail { file, written })
    }

    /// Appends what the table has and the file has not.
    ///
    /// # Errors
    /// What the database or the disk says.
    pub fn follow(&mut self, store: &Store) -> anyhow::Result<()> {
        let last: i64 = store
            .read(|c| Ok(c.query_row("SELECT coalesce(max(seq), 0) FROM audit", [], |row| row.get(0))?))?;
        // An older copy of the database counts some numbers a second time.
        self.written = self.written.min(last);
        loop {
            let from = self.written;
            let entries =
                store.read(|c| select(c, "WHERE seq > ?1 ORDER BY seq LIMIT ?2", params![from, PORTION]))?;
            let Some(last) = entries.last() else { return Ok(()) };
            let mut lines = vec![];
            for entry in &entries {
                serde_json::to_writer(&mut lines, entry)?;
                lines.push(b'\n');
            }
            self.file.write_all(&lines).context("writing the audit log")?;
            self.written = last.seq;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_follows_the_table_across_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let store = Store::in_memory().unwrap();
        let note = |action: &'static str| {
            store.write(move |c| note(c, Epoch(7), "policy", action, None, "why")).unwrap();
        };
        note("one");
        note("two");
        Trail::open(&path).unwrap().follow(&store).unwrap();
        note("three");
        let whole = std::fs::read(&path).unwrap();
        // Cut in the second line: it is written again, behind what is left of it.
        std::fs::write(&path, &whole[..whole.len() - 9]).unwrap();
        let mut trail = Trail::open(&path).unwrap();
        trail.follow(&store).unwrap();
        trail.follow(&store).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let read: Vec<Entry> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        assert_eq!(read.iter().map(|e| e.seq).collect::<Vec<_>>(), [1, 2, 3]);
    }
}
