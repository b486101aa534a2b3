//! Programs from unpacked Debian packages, run where they lie: nothing is installed, no path of the host is used.
//!
//! A root is what the packages' data archives unpack to, side by side. Its programs are started by its own dynamic loader
//! (ld.so(8), "--library-path"), so that neither the host's C library nor its age matters.

use crate::host::tool::ToolCall;
use crate::model::Arch;
use std::path::{Path, PathBuf};

/// A directory of unpacked packages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolRoot {
    root: PathBuf,
    arch: Arch,
}

/// A program that the packages of a root do not have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the tools in {root} have no `{program}`")]
pub struct MissingTool {
    /// The root's directory.
    pub root: PathBuf,
    /// What was looked for.
    pub program: String,
}

impl ToolRoot {
    /// The root at `root`, whose programs are for `arch`, the host's.
    pub fn new(root: impl Into<PathBuf>, arch: Arch) -> ToolRoot {
        ToolRoot { root: root.into(), arch }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// A call of `program`, looked for in the root's `usr/bin` and `usr/sbin`.
    ///
    /// # Errors
    /// [`MissingTool`].
    pub fn command(&self, program: &str) -> Result<ToolCall, MissingTool> {
        let missing = || MissingTool { root: self.root.clone(), program: program.into() };
        let file =
            ["usr/bin", "usr/sbin", "bin", "sbin"].into_iter().map(|dir| self.root.join(dir).join(program));
        let file = file.into_iter().find(|path| path.is_file()).ok_or_else(missing)?;
        let loader = self.loader().ok_or_else(missing)?;
        let libraries: Vec<String> =
            self.library_dirs().iter().map(|dir| dir.to_string_lossy().into_owned()).collect();
        Ok(ToolCall::new(loader)
            // The program's name as it would be: QEMU and others look at it.
            .args(["--argv0", program, "--library-path", &libraries.join(":")])
            .arg(file)
            // Plug-ins are opened by absolute path of a system that is not there.
            .env("QEMU_MODULE_DIR", self.multiarch().join("qemu")))
    }

    /// A data file of the packages.
    ///
    /// # Errors
    /// [`MissingTool`] with the path.
    pub fn file(&self, path: &str) -> Result<PathBuf, MissingTool> {
        let file = self.root.join(path);
        let missing = || MissingTool { root: self.root.clone(), program: path.into() };
        if file.is_file() { Ok(file) } else { Err(missing()) }
    }

    /// Whether QEMU can open a window: Debian has that in a package of its own, qemu-system-gui, which brings a desktop's
    /// libraries along and is therefore not among [`super::packages`].
    pub fn has_window(&self) -> bool {
        self.multiarch().join("qemu/ui-gtk.so").is_file()
    }

    fn loader(&self) -> Option<PathBuf> {
        let names: [&str; 2] = match self.arch {
            Arch::Amd64 => {
                ["usr/lib64/ld-linux-x86-64.so.2", "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"]
            }
            Arch::Arm64 => {
                ["usr/lib/ld-linux-aarch64.so.1", "usr/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1"]
            }
        };
        names.iter().map(|name| self.root.join(name)).find(|path| path.is_file())
    }

    fn multiarch(&self) -> PathBuf {
        self.root.join("usr/lib").join(self.arch.multiarch())
    }

    /// Where libraries lie. The last are those that packages add through `/etc/ld.so.conf.d`,
    /// `update-alternatives` or a run path.
    fn library_dirs(&self) -> Vec<PathBuf> {
        let base = self.multiarch();
        let sub = ["pulseaudio", "blas", "lapack", "swtpm"].map(|dir| base.join(dir));
        [vec![base, self.root.join("usr/lib")], sub.into_iter().filter(|dir| dir.is_dir()).collect()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = ToolRoot::new(dir.path(), Arch::Amd64).command("qemu-img").unwrap_err();
        assert_eq!(error.program, "qemu-img");
    }
}
