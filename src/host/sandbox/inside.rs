//! What process 1 of a sandbox does with its place: a root directory of its own, limits, and programs that end with it.

use super::{STRAY_TAIL, refusal};
use crate::error::Mark as _;
use anyhow::{Context as _, anyhow, bail};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;

/// The file that the job's product goes to.
///
/// # Errors
/// When the process has no more descriptors.
pub fn product() -> std::io::Result<File> {
    Ok(File::from(rustix::stdio::stdout().try_clone_to_owned()?))
}

/// Makes `root` the root directory of this process, with /proc, a small /dev, and empty /tmp and /run; nothing of the
/// machine stays reachable but by descriptors that are open already. Returned is `root` as it was opened before: below
/// that descriptor none of these mounts is seen.
///
/// # Errors
/// What the kernel says, naming the mount.
pub fn enter(root: &Path) -> anyhow::Result<rustix::fd::OwnedFd> {
    use rustix::fs::{CWD, Mode, OFlags};
    let mount = |source: &str, target: &str, kind: &str, flags: MountFlags, data: &str| {
        let target = root.join(target);
        let data = std::ffi::CString::new(data).unwrap_or_default();
        rustix::mount::mount(source, &target, kind, flags, Some(data.as_c_str()))
            .with_context(|| format!("mounting {kind} at {}", target.display()))
            .hint(refusal())
    };
    let bind = |source: &str, target: PathBuf| {
        rustix::mount::mount_bind(source, &target)
            .with_context(|| format!("mounting {source} at {}", target.display()))
    };
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let tree =
        rustix::fs::openat(CWD, root, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::mount::mount_bind(root, root).context("mounting the tree on itself")?;
    for dir in ["proc", "dev", "run", "tmp"] {
        match std::fs::create_dir(root.join(dir)) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(e.into()),
            _ => {}
        }
    }
    let quiet = MountFlags::NOSUID | MountFlags::NODEV;
    mount("proc", "proc", "proc", quiet | MountFlags::NOEXEC, "")?;
    mount("tmpfs", "dev", "tmpfs", MountFlags::NOSUID, "mode=0755")?;
    mount("tmpfs", "run", "tmpfs", quiet, "mode=0755")?;
    mount("tmpfs", "tmp", "tmpfs", quiet, "mode=1777")?;
    let dev = root.join("dev");
    // Bound and not made, because a user namespace may make no devices.
    for name in ["null", "zero", "full", "random", "urandom", "tty"] {
        File::create(dev.join(name))?;
        bind(&format!("/dev/{name}"), dev.join(name))?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        std::os::unix::fs::symlink(target, dev.join(name))?;
    }
    for (name, mode) in [("dev/pts", 0o755), ("dev/shm", 0o1777), ("run/lock", 0o1777)] {
        std::fs::create_dir(root.join(name))?;
        rustix::fs::chmod(root.join(name), Mode::from_raw_mode(mode))?;
    }
    mount(
        "devpts",
        "dev/pts",
        "devpts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        "newinstance,mode=620,ptmxmode=666",
    )?;
    rustix::process::chdir(root)?;
    // The old root ends up on top of the new one and is taken off: pivot_root(2), "pivot_root(".", ".")".
    rustix::process::pivot_root(".", ".").context("changing the root directory")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    Ok(tree)
}

/// From here on, this process and all it starts do not wait for the disk: calls that would are answered with success
/// and do nothing. For trees that are thrown away when the machine goes down.
///
/// # Errors
/// When the kernel takes no filter.
pub fn ignore_syncs() -> anyhow::Result<()> {
    use nix::libc;
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
    let calls = [
        libc::SYS_fsync,
        libc::SYS_fdatasync,
        libc::SYS_sync,
        libc::SYS_syncfs,
        libc::SYS_msync,
        libc::SYS_sync_file_range,
    ];
    let filter = SeccompFilter::new(
        calls.into_iter().map(|call| (call, vec![])).collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(0),
        std::env::consts::ARCH
            .try_into()
            .map_err(|_| anyhow!("no filter for this machine's architecture"))?,
    )?;
    seccompiler::apply_filter(&BpfProgram::try_from(filter)?)
        .context("filtering calls that wait for the disk")
}

/// What a process, and each that it starts, may take.
pub struct Limits {
    /// Address space, in bytes.
    pub memory: u64,
    /// Processor time, in seconds.
    pub seconds: u64,
    /// The largest file that it may write, in bytes.
    pub file: u64,
}

/// Holds this process, and all it starts from here on, to `limits`.
///
/// # Errors
/// When the kernel refuses.
pub fn limit(limits: &Limits) -> anyhow::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let Limits { memory, seconds, file } = *limits;
    for (resource, most) in [(Resource::As, memory), (Resource::Cpu, seconds), (Resource::Fsize, file)] {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
            .with_context(|| format!("limiting {resource:?}"))?;
    }
    Ok(())
}

/// Starts `program` beside what is called next: it is killed when that [`call`] ends, and its output goes nowhere.
///
/// # Errors
/// When it cannot be started.
pub fn background(program: &str, args: &[&str], env: &[(String, String)]) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    command.args(args).env_clear().envs(env.iter().map(|(k, v)| (k, v))).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().with_context(|| format!("starting {program}"))?; // process 1 reaps what it has not waited for
    Ok(())
}

/// Runs `program` to its end, giving each line of its output to `line`; whatever it left running is killed. Only for
/// process 1 of a sandbox.
///
/// # Errors
/// When it ends with another status than 0: the tail of its output is in the message.
pub fn call(
    program: &str,
    args: &[&str],
    env: &[(&str, &str)],
    mut line: impl FnMut(&str),
) -> anyhow::Result<()> {
    let (reader, writer) = std::io::pipe()?;
    let mut command = Command::new(program);
    command.args(args).env_clear().envs(env.iter().copied()).current_dir("/").stdin(Stdio::null());
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("starting {program}"))?;
    drop(command); // and with it this side's writers
    let (sender, lines) = mpsc::channel();
    let drain = std::thread::spawn(move || {
        for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
            let _ = sender.send(String::from_utf8_lossy(&line).into_owned()); // the receiver outlives this
        }
    });
    let waiter = std::thread::spawn(move || {
        let status = child.wait();
        // What it left behind would hold the pipe open, and change the tree later.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(-1), nix::sys::signal::Signal::SIGKILL);
        status
    });
    let mut tail = String::new();
    for text in lines {
        line(&text);
        tail.push_str(&text);
        tail.push('\n');
        tail.drain(..tail.ceil_char_boundary(tail.len().saturating_sub(STRAY_TAIL)));
    }
    let status = waiter.join().map_err(|_| anyhow!("waiting for {program}"))??;
    let _ = drain.join(); // it has nothing to say
    while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
    if !status.success() {
        bail!(
            "{program} {} ended with {status}{}{}",
            args.join(" "),
            if tail.is_empty() { "" } else { ":\n" },
            tail.trim()
        );
    }
    Ok(())
}
