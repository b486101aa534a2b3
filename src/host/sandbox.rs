//! A place where packages' scripts can do no harm: forge runs itself again, inside namespaces of its own.
//!
//! A process that has threads cannot enter a user namespace, and safe Rust cannot fork. So [`run`] starts forge's own
//! program with a hidden first argument; `main` gives [`entry`] the first word, which takes two steps:
//!
//! 1. *outer*, still single-threaded, unshares: a user namespace where forge is not root (its parent then maps 65536
//!    ids with `newuidmap`) or the job wants one, and mount, pid, network, uts and ipc namespaces always. There is no network inside.
//! 2. *init*, its child, is process 1 of the new pid namespace and does the job. When it ends, for whatever reason, the
//!    kernel kills all below it; when forge ends, the kernel kills it. Mounts go with the namespace.
//!
//! Three streams are all that connects the two sides: the job's description on stdin, its product on stdout (a file of
//! the caller's), messages as lines of JSON on stderr. What a job does with its place is `inside`.

mod inside;

pub use inside::{Limits, background, call, enter, ignore_syncs, limit, product};

use super::cancel::Cancel;
use super::tool::ToolCall;
use crate::error::{self, Kind, Mark as _};
use anyhow::{Context as _, anyhow, bail};
use nix::sched::CloneFlags;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// First argument of the inner runs: nothing that a person would type.
const ARGUMENT: &str = "__forge-sandbox";
/// Behind a job's name: with users of its own.
const USERS: &str = "users";
/// How many ids a Debian system may use: 0 to 65535, `nogroup` and `nobody` being 65534 (Debian policy §9.2.2).
const IDS: u32 = 65_536;
/// What is kept of output that is no message (a panic's text), in bytes.
const STRAY_TAIL: usize = 4096;

/// Work that runs inside: a name, and what is done with the job's description.
pub type Job = (&'static str, fn(&[u8]) -> anyhow::Result<String>);

/// A line from inside.
#[derive(Serialize, Deserialize)]
enum Message {
    /// The namespaces are there and wait for their id maps.
    Unshared,
    /// Something for the person that waits.
    Progress(String),
    /// The end: what the job returned.
    Done(String),
    /// The end: what went wrong, outermost first, with the kind's exit code and hints.
    Failed { chain: Vec<String>, code: u8, hints: Vec<String> },
}

/// A job, and what it is run with.
pub struct Call<'a> {
    /// forge itself (`host::env::program`).
    pub program: &'a Path,
    /// The job's name.
    pub name: &'a str,
    /// Its description.
    pub job: &'a [u8],
    /// What it may write its product to.
    pub out: Option<&'a File>,
    /// Whether it gets a user namespace even where forge is root: what the kernel is told inside then holds there alone.
    pub own_users: bool,
    /// Stops it.
    pub cancel: &'a Cancel,
    /// Told what it is doing.
    pub progress: &'a dyn Fn(&str),
}

/// Runs a job inside and returns what it returned. On cancellation everything inside is killed before this returns.
///
/// # Errors
/// What the job said, with its kind; [`Kind::Unexpected`] with a hint where the machine does not allow namespaces.
pub fn run(call: &Call<'_>) -> anyhow::Result<String> {
    let Call { program, name, job, out, own_users, cancel, progress } = *call;
    let users = own_users || !rustix::process::getuid().is_root();
    let stdout = match out {
        Some(file) => Stdio::from(file.try_clone()?),
        None => Stdio::null(),
    };
    let mut child = Command::new(program)
        .args([ARGUMENT, "outer", name, if users { USERS } else { "" }])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {} again as a sandbox", program.display()))?;
    let pid = child.id();
    let mut stdin = child.stdin.take();
    let stderr = child.stderr.take().context("opening the sandbox's messages")?;
    let (sender, lines) = mpsc::channel();
    // Ends with the last process inside that holds the pipe; all are dead once the child is reaped.
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let mut stray = String::new();
    let mut outcome = None;
    let result = loop {
        if let Err(e) = cancel.check() {
            break Err(e);
        }
        let line = match lines.recv_timeout(Duration::from_millis(20)) {
            Ok(line) => line,
            Err(mpsc::RecvTimeoutError::Timeout) => continue,
            Err(mpsc::RecvTimeoutError::Disconnected) => break Ok(()),
        };
        match serde_json::from_slice(&line) {
            Ok(Message::Unshared) => {
                // Dropping its input tells the job that the description is complete.
                let Some(mut stdin) = stdin.take() else { continue };
                let mapped = if users { map_ids(pid, cancel) } else { Ok(()) };
                let told = mapped.and_then(|()| Ok(stdin.write_all(&[b"\n", job].concat())?));
                if let Err(e) = told {
                    break Err(e);
                }
            }
            Ok(Message::Progress(text)) => progress(&text),
            Ok(Message::Done(text)) => outcome = Some(Ok(text)),
            Ok(Message::Failed { chain, code, hints }) => outcome = Some(Err(rebuild(chain, code, hints))),
            Err(_) => {
                stray.push_str(&String::from_utf8_lossy(&line));
                stray.push('\n');
                stray.drain(..stray.ceil_char_boundary(stray.len().saturating_sub(STRAY_TAIL)));
            }
        }
    };
    if result.is_err() {
        let _ = child.kill(); // it may have just ended
    }
    let status = child.wait()?;
    let _ = reader.join(); // it has nothing to say
    result?;
    match outcome {
        Some(outcome) => outcome,
        None => {
            let how = match status.signal() {
                Some(signal) => format!("was killed by signal {signal}"),
                None => format!("ended with {status}"),
            };
            bail!(
                "the sandbox {how} without a word{}{}",
                if stray.is_empty() { "" } else { ":\n" },
                stray.trim()
            )
        }
    }
}

fn rebuild(chain: Vec<String>, code: u8, hints: Vec<String>) -> anyhow::Error {
    let mut lines = chain.into_iter().rev();
    let first = anyhow!(lines.next().unwrap_or_default());
    let kind = [Kind::Input, Kind::Fetch, Kind::Verify, Kind::Lock, Kind::Interrupted];
    let kind = kind.into_iter().find(|k| k.exit_code() == code).unwrap_or(Kind::Unexpected);
    let error = lines.fold(error::of(kind, first), |error, line| error.context(line));
    hints.into_iter().rev().fold(error, |error, hint| match Err::<(), _>(error).hint(hint) {
        Err(error) => error,
        Ok(()) => anyhow!("interrupted"),
    })
}

/// Maps ids 0 to 65535 of the new user namespace of process `pid`: 0 is this user, so that what root makes inside can
/// be named and counted outside; the rest is the user's range of subordinate ids. For root, each id is itself.
fn map_ids(pid: u32, cancel: &Cancel) -> anyhow::Result<()> {
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    if uid.is_root() {
        for map in ["uid_map", "gid_map"] {
            let own = std::fs::read_to_string(format!("/proc/self/{map}"))?;
            let file = File::options().write(true).open(format!("/proc/{pid}/{map}"))?;
            // The kernel takes a map whole, in one write.
            (&file).write_all(identity(&own).as_bytes()).context("mapping the ids of a user namespace")?;
        }
        return Ok(());
    }
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid.as_raw())).ok().flatten();
    let name = user.map(|u| u.name).unwrap_or_else(|| uid.as_raw().to_string());
    for (program, file, own) in
        [("newuidmap", "/etc/subuid", uid.as_raw()), ("newgidmap", "/etc/subgid", gid.as_raw())]
    {
        let range = std::fs::read_to_string(file).ok();
        let range = range.as_deref().and_then(|text| subordinate(text, &name, uid.as_raw()));
        let Some(start) = range else {
            return Err(anyhow!("{name} has no range of 65535 ids in {file}")).hint(format!(
                "run `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}` as root, with a range \
                 that nobody else has"
            ));
        };
        let numbers = [pid, 0, own, 1, 1, start, IDS - 1].map(|n| n.to_string());
        ToolCall::new(program)
            .args(&numbers)
            .output(cancel)
            .context("mapping the ids of a user namespace")
            .hint("install newuidmap and newgidmap (Debian: `apt install uidmap`)")?;
    }
    Ok(())
}

/// The map that makes each id that is known here itself: lines of first id inside, first id here, count
/// (user_namespaces(7)).
fn identity(own: &str) -> String {
    let lines = own.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (first, count) = (fields.next()?, fields.nth(1)?);
        Some(format!("{first} {first} {count}\n"))
    });
    lines.collect()
}

/// The first id of a range that is long enough, of `name` or `uid`, in the text of /etc/subuid (subuid(5)).
fn subordinate(text: &str, name: &str, uid: u32) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let (who, start) = (fields.next()?, fields.next()?.parse().ok()?);
        let count: u32 = fields.next()?.parse().ok()?;
        ((who == name || who == uid.to_string()) && count >= IDS - 1).then_some(start)
    })
}

/// To be asked first thing by `main`: runs the job and gives its exit code when this process was started by [`run`],
/// nothing when it was started by a person.
pub fn entry(jobs: &[Job]) -> Option<ExitCode> {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() != Some(ARGUMENT) {
        return None;
    }
    let mut word = || args.next().unwrap_or_default();
    let (stage, name, users) = (word(), word(), word() == USERS);
    let result = match (stage.as_str(), jobs.iter().find(|job| job.0 == name)) {
        ("outer", Some(_)) => outer(&name, users).map(|()| None),
        ("init", Some(job)) => init(job).map(Some),
        _ => Err(anyhow!("{name} is no job of the sandbox")),
    };
    let message = match result {
        Ok(None) => return Some(ExitCode::SUCCESS),
        Ok(Some(text)) => Message::Done(text),
        Err(e) => Message::Failed {
            chain: error::chain(&e),
            code: error::kind(&e).exit_code(),
            hints: error::hints(&e).into_iter().map(String::from).collect(),
        },
    };
    say(&message);
    Some(ExitCode::SUCCESS)
}

/// Tells the person that waits outside what is being done.
pub fn progress(text: &str) {
    say(&Message::Progress(text.into()));
}

fn say(message: &Message) {
    if let Ok(mut line) = serde_json::to_vec(message) {
        line.push(b'\n');
        let _ = std::io::stderr().write_all(&line); // nobody is left to tell
    }
}

fn outer(name: &str, users: bool) -> anyhow::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    rustix::process::setsid()?; // a terminal's Ctrl-C is for forge, which then ends this in order
    let mut flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    if users {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    nix::sched::unshare(flags).context("making namespaces").hint(refusal())?;
    say(&Message::Unshared);
    // One byte and no more: the rest is for the job.
    let mut go = [0];
    if rustix::io::read(rustix::stdio::stdin(), &mut go)? != 1 {
        bail!("forge went away");
    }
    let status = Command::new("/proc/self/exe").args([ARGUMENT, "init", name]).status()?;
    match status.signal() {
        Some(signal) => bail!("the sandbox's first process was killed by signal {signal}"),
        None => Ok(()),
    }
}

/// What stands in the way of namespaces on this machine, in words that a person can act on.
fn refusal() -> String {
    let setting =
        |path: &str| std::fs::read_to_string(path).map(|s| s.trim().to_string()).unwrap_or_default();
    let sysctl = if setting("/proc/sys/user/max_user_namespaces") == "0" {
        "user.max_user_namespaces=65536"
    } else if setting("/proc/sys/kernel/unprivileged_userns_clone") == "0" {
        "kernel.unprivileged_userns_clone=1"
    } else if setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1" {
        "kernel.apparmor_restrict_unprivileged_userns=0"
    } else {
        return "this kernel or container refuses namespaces: run forge where they are allowed, or as root"
            .into();
    };
    format!("user namespaces are switched off here: run `sysctl -w {sysctl}` as root, or run forge as root")
}

fn init(job: &Job) -> anyhow::Result<String> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    rustix::system::sethostname(b"localhost").context("naming the sandbox").hint(refusal())?;
    let mut description = vec![];
    std::io::stdin().read_to_end(&mut description)?;
    job.1(&description)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_id_is_itself() {
        assert_eq!(identity("         0     100000      65536\n"), "0 0 65536\n");
    }

    #[test]
    fn subordinate_ranges_are_found_by_name_and_number() {
        let text = "daemon:1:10\nuser:100000:65536\n1001:300000:65535\nshort:400000:1000\nbroken\n";
        assert_eq!(subordinate(text, "user", 1000), Some(100_000));
        assert_eq!(subordinate(text, "other", 1001), Some(300_000));
        assert_eq!(subordinate(text, "short", 1002), None);
        assert_eq!(subordinate(text, "nobody", 1003), None);
    }

    #[test]
    fn an_error_from_inside_keeps_kind_and_hints() {
        let error = rebuild(vec!["configuring".into(), "digest".into()], 4, vec!["look".into()]);
        assert_eq!(error::kind(&error), Kind::Verify);
        assert_eq!(error::chain(&error), ["configuring", "digest"]);
        assert_eq!(error::hints(&error), ["look"]);
    }
}
