//! SQLite, such that what was answered is on the disk: write-ahead log, synchronous, many requests a commit.
//!
//! Each request is one piece of work in one transaction, so a crash leaves it done or not begun. Whoever finds the writer
//! free runs all the work that has gathered, commits once for all of it, and only then does anybody get an answer: one
//! sync of the disk serves as many claims as came while the last one ran.

use anyhow::{Context as _, anyhow};
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

/// What makes each version of the database of the one before; the version is their count, kept in `user_version`.
const STEPS: &[&str] = &[include_str!("schema.sql"), include_str!("schema-2.sql")];
/// How long another process (an operator's command) may keep the database to itself.
const BUSY: Duration = Duration::from_secs(10);

type Deliver = Box<dyn FnOnce(Result<(), String>)>;
type Work = Box<dyn FnOnce(&Connection) -> Deliver + Send>;

/// The fleet's database.
pub struct Store {
    gathered: Mutex<Vec<Work>>,
    writer: Mutex<Connection>,
    /// Idle connections for reading; none where the database is in memory.
    readers: Mutex<Vec<Connection>>,
    path: Option<PathBuf>,
    commits: AtomicU64,
}

impl Store {
    /// Opens the database at `path`, which is made when missing.
    ///
    /// # Errors
    /// When it is no database of this version, or the disk fails.
    pub fn open(path: &Path) -> anyhow::Result<Store> {
        let connection = Connection::open(path).with_context(|| format!("opening {}", path.display()))?;
        let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        anyhow::ensure!(mode == "wal", "{} cannot have a write-ahead log, but {mode}", path.display());
        // FULL: a commit returns when the log is on the disk. NORMAL would lose answered claims with the power.
        connection.pragma_update(None, "synchronous", "FULL")?;
        // A log of 16 MiB before it is written back; the default of 4 MiB is reached every few thousand claims.
        connection.pragma_update(None, "wal_autocheckpoint", 4096)?;
        Store::new(connection, Some(path.into()))
    }

    /// A database in memory, for simulations: it lives as long as the value.
    ///
    /// # Errors
    /// When memory is short.
    pub fn in_memory() -> anyhow::Result<Store> {
        Store::new(Connection::open_in_memory()?, None)
    }

    fn new(connection: Connection, path: Option<PathBuf>) -> anyhow::Result<Store> {
        connection.busy_timeout(BUSY)?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.set_prepared_statement_cache_capacity(64);
        migrate(&connection)?;
        Ok(Store {
            gathered: Mutex::default(),
            writer: Mutex::new(connection),
            readers: Mutex::default(),
            path,
            commits: AtomicU64::new(0),
        })
    }

    /// Runs `work` in a transaction that is on the disk when this returns; work of other threads may share it. Work that
    /// fails leaves nothing behind.
    ///
    /// # Errors
    /// Those of `work`, and what the database says; nothing has happened then.
    pub fn write<T, F>(&self, work: F) -> anyhow::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> anyhow::Result<T> + Send + 'static,
    {
        let (done, outcome) = mpsc::sync_channel(1);
        // The receiver lives until it has this: it waits for the writer, or for this very message.
        self.gather(work, move |result| drop(done.send(result)));
        let writer = lock(&self.writer);
        if let Ok(result) = outcome.try_recv() {
            return result; // whoever had the writer before took this along
        }
        self.commit_with(writer);
        outcome.recv().context("waiting for a commit")?
    }

    /// Puts `work` with what the next [`Store::commit`], or the next [`Store::write`], takes along; `deliver` gets its
    /// result once it is on the disk.
    pub fn gather<T: 'static>(
        &self,
        work: impl FnOnce(&Connection) -> anyhow::Result<T> + Send + 'static,
        deliver: impl FnOnce(anyhow::Result<T>) + Send + 'static,
    ) {
        lock(&self.gathered).push(Box::new(move |connection: &Connection| {
            let result = alone(connection, work);
            Box::new(move |committed: Result<(), String>| {
                deliver(committed.map_err(|why| anyhow!("committing: {why}")).and(result));
            }) as Deliver
        }));
    }

    /// Runs what was gathered; nothing when nothing was.
    pub fn commit(&self) {
        self.commit_with(lock(&self.writer));
    }

    fn commit_with(&self, writer: MutexGuard<'_, Connection>) {
        let gathered = std::mem::take(&mut *lock(&self.gathered));
        if gathered.is_empty() {
            return;
        }
        let mut deliveries = Vec::with_capacity(gathered.len());
        let committed = transaction(&writer, gathered, &mut deliveries).map_err(|e| format!("{e:#}"));
        if committed.is_err() && !writer.is_autocommit() {
            // Should this fail as well, the next BEGIN says so to everybody.
            let _ = writer.execute_batch("ROLLBACK");
        }
        self.commits.fetch_add(1, Ordering::Relaxed);
        drop(writer);
        for deliver in deliveries {
            deliver(committed.clone());
        }
    }

    /// Reads what is committed.
    ///
    /// # Errors
    /// Those of `look`, and what the database says.
    pub fn read<T>(&self, look: impl FnOnce(&Connection) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let Some(path) = &self.path else {
            return look(&lock(&self.writer));
        };
        let idle = lock(&self.readers).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => {
                let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                let connection = Connection::open_with_flags(path, flags)?;
                connection.busy_timeout(BUSY)?;
                connection.set_prepared_statement_cache_capacity(64);
                connection
            }
        };
        let result = look(&connection);
        lock(&self.readers).push(connection);
        result
    }

    /// Writes a copy of what is committed to `path`, which must not be there: a backup while the endpoint runs.
    ///
    /// # Errors
    /// What the database or the disk says.
    pub fn copy_to(&self, path: &Path) -> anyhow::Result<()> {
        let text = path.to_str().context("a path that is not UTF-8")?;
        self.read(|connection| Ok(connection.execute("VACUUM INTO ?1", [text]).map(drop)?))
    }

    /// How many transactions were made since the start.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }
}

fn transaction(
    connection: &Connection,
    gathered: Vec<Work>,
    deliveries: &mut Vec<Deliver>,
) -> anyhow::Result<()> {
    let begun = connection.prepare_cached("BEGIN IMMEDIATE").and_then(|mut s| s.execute([]));
    for work in gathered {
        // Without a transaction the work runs into an error of its own, and everybody is told.
        deliveries.push(work(connection));
    }
    begun?;
    connection.prepare_cached("COMMIT")?.execute([])?;
    Ok(())
}

/// Runs `work` so that its failure takes back nothing but itself.
fn alone<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    anyhow::ensure!(!connection.is_autocommit(), "the database gives no transaction");
    connection.prepare_cached("SAVEPOINT work")?.execute([])?;
    let result = work(connection);
    if result.is_err() {
        connection.prepare_cached("ROLLBACK TO work")?.execute([])?;
    }
    connection.prepare_cached("RELEASE work")?.execute([])?;
    result
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked left a transaction open at worst, which the next one rolls back.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Brings the database to this version, in one transaction. The version is read inside it: an operator's command may have
/// opened the same database a moment ago.
fn migrate(connection: &Connection) -> anyhow::Result<()> {
    let version = || connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0));
    let missing = |version: i64| usize::try_from(version).ok().and_then(|done| STEPS.get(done..));
    let of_later =
        |version| anyhow!("the database has version {version}, and this forge knows {}", STEPS.len());
    let found = version()?;
    if missing(found).ok_or_else(|| of_later(found))?.is_empty() {
        return Ok(());
    }
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    let found = version()?;
    for step in missing(found).ok_or_else(|| of_later(found))? {
        transaction.execute_batch(step).context("making the database's tables")?;
    }
    transaction.pragma_update(None, "user_version", STEPS.len() as i64)?;
    transaction.commit().context("making the database's tables")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn note(connection: &Connection, key: &str) -> anyhow::Result<()> {
        connection.execute("INSERT INTO barred VALUES ('ticket', ?1, 0, '')", [key])?;
        Ok(())
    }

    fn count(store: &Store) -> i64 {
        store.read(|c| Ok(c.query_row("SELECT count(*) FROM barred", [], |r| r.get(0))?)).unwrap()
    }

    #[test]
    fn work_of_many_threads_is_committed_together_and_failures_stand_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fleet.db");
        let store = Arc::new(Store::open(&path).unwrap());
        let threads: Vec<_> = (0..8)
            .map(|t| {
                let store = store.clone();
                std::thread::spawn(move || {
                    for n in 0..25 {
                        store.write(move |c| note(c, &format!("{t}-{n}"))).unwrap();
                        let failed = store.write(move |c| {
                            note(c, &format!("never-{t}-{n}"))?;
                            anyhow::bail!("changed its mind");
                            #[allow(unreachable_code, reason = "gives the closure its type")]
                            Ok(())
                        });
                        assert!(failed.unwrap_err().to_string().contains("changed its mind"));
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(count(&store), 200);
        assert!(store.commits() <= 400, "{} commits", store.commits());
        store.copy_to(&dir.path().join("copy.db")).unwrap();
        drop(store);
        for file in ["fleet.db", "copy.db"] {
            assert_eq!(count(&Store::open(&dir.path().join(file)).unwrap()), 200, "{file}");
        }
    }

    #[test]
    fn a_database_of_the_version_before_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fleet.db");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(&format!("{} PRAGMA user_version = 1;", STEPS[0])).unwrap();
        note(&old, "kept").unwrap();
        drop(old);
        let store = Store::open(&path).unwrap();
        assert_eq!(count(&store), 1);
        let of = "SELECT count(ek) FROM device";
        assert_eq!(store.read(|c| Ok(c.query_row(of, [], |r| r.get::<_, i64>(0))?)).unwrap(), 0);
    }

    #[test]
    fn a_database_of_another_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fleet.db");
        drop(Store::open(&path).unwrap());
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 9).unwrap();
        assert!(Store::open(&path).err().unwrap().to_string().contains("version 9"));
        std::fs::write(&path, "no database").unwrap();
        assert!(Store::open(&path).is_err());
    }
}
