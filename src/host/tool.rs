//! Other programs: started with a clean environment, bounded, reaped, and named when they fail.

use super::cancel::Cancel;
use anyhow::{Context as _, bail};
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// How much of a failed program's stderr is shown, in bytes from its end.
const STDERR_TAIL: usize = 2048;

/// A call of a program, as data until [run](ToolCall::output).
#[derive(Clone, Debug)]
pub struct ToolCall {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: Option<OsString>,
    within: Option<Duration>,
    input: Option<Zeroizing<Vec<u8>>>,
}

impl ToolCall {
    /// A call of `program`, by path or found in PATH, with nothing in its environment but PATH and `LC_ALL=C.UTF-8`.
    pub fn new(program: impl AsRef<OsStr>) -> ToolCall {
        ToolCall {
            program: program.as_ref().into(),
            args: vec![],
            env: vec![],
            dir: None,
            within: None,
            input: None,
        }
    }

    /// Appends an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> ToolCall {
        self.args.push(arg.as_ref().into());
        self
    }

    /// Appends arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> ToolCall {
        self.args.extend(args.into_iter().map(|a| a.as_ref().into()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> ToolCall {
        self.env.push((name.as_ref().into(), value.as_ref().into()));
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn dir(mut self, dir: &Path) -> ToolCall {
        self.dir = Some(dir.into());
        self
    }

    /// Bounds the time that [`ToolCall::output`] gives it.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> ToolCall {
        self.within = Some(limit);
        self
    }

    /// What [`ToolCall::output`] gives it on its standard input; else it has none. For secrets too: arguments are seen by
    /// every process of the machine.
    #[must_use]
    pub fn input(mut self, bytes: &[u8]) -> ToolCall {
        self.input = Some(Zeroizing::new(bytes.to_vec()));
        self
    }

    /// The program's file name, for messages.
    pub fn name(&self) -> String {
        Path::new(&self.program).file_name().unwrap_or(&self.program).to_string_lossy().into_owned()
    }

    /// The call as a [`Command`], for callers that handle the streams themselves.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).env_clear().env("LC_ALL", "C.UTF-8");
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command.envs(self.env.iter().map(|(k, v)| (k, v)));
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command
    }

    /// Runs it to its end; its standard output. On cancellation the program is killed and reaped.
    ///
    /// # Errors
    /// When it cannot be started, is cancelled, takes too long, or ends with another status than 0: the last 2 KiB of its
    /// stderr are in the message.
    pub fn output(&self, cancel: &Cancel) -> anyhow::Result<Vec<u8>> {
        let mut child = self
            .command()
            .stdin(if self.input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", self.name()))?;
        let started = Instant::now();
        let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
        let drain = |pipe: &mut dyn Read| {
            let mut bytes = vec![];
            let _ = pipe.read_to_end(&mut bytes); // what was read counts; the status says whether it was all
            bytes
        };
        let stdin = child.stdin.take();
        std::thread::scope(|scope| {
            if let (Some(mut stdin), Some(input)) = (stdin, &self.input) {
                // A program that ends before it has read everything says why by its status.
                scope.spawn(move || drop(stdin.write_all(input)));
            }
            let out = scope.spawn(|| stdout.as_mut().map(|p| drain(p)).unwrap_or_default());
            let err = scope.spawn(|| stderr.as_mut().map(|p| drain(p)).unwrap_or_default());
            let status = loop {
                if let Some(status) = child.try_wait()? {
                    break status;
                }
                if cancel.is_cancelled() {
                    let _ = child.kill(); // it may have just ended
                    child.wait()?;
                    cancel.check()?;
                }
                if let Some(limit) = self.within.filter(|limit| started.elapsed() > *limit) {
                    let _ = child.kill(); // it may have just ended
                    child.wait()?;
                    bail!("{} took longer than {} s", self.name(), limit.as_secs());
                }
                std::thread::sleep(Duration::from_millis(5));
            };
            let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
            if !status.success() {
                let tail =
                    String::from_utf8_lossy(&err[err.len().saturating_sub(STDERR_TAIL)..]).trim().to_string();
                bail!(
                    "{} ended with {status}{}{tail}",
                    self.name(),
                    if tail.is_empty() { "" } else { ":\n" }
                );
            }
            Ok(out)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_carries_the_programs_own_words() {
        let error = ToolCall::new("/bin/sh")
            .args(["-c", "echo out; echo why >&2; exit 3"])
            .output(&Cancel::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("sh ended with exit status: 3") && error.ends_with("why"), "{error}");
    }

    #[test]
    fn what_hangs_is_ended() {
        let call = ToolCall::new("/bin/sleep").arg("600").within(Duration::from_millis(20));
        let error = call.output(&Cancel::default()).unwrap_err();
        assert!(error.to_string().contains("took longer"), "{error}");
    }

    #[test]
    fn cancellation_kills() {
        let cancel = Cancel::default();
        cancel.cancel();
        let error = ToolCall::new("/bin/sleep").arg("600").output(&cancel).unwrap_err();
        assert_eq!(crate::error::kind(&error), crate::error::Kind::Interrupted);
    }
}
