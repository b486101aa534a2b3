//! What an ELF file loads at run time, and the closure of that over a tree.
//!
//! `DT_NEEDED`, `DT_RUNPATH` and the program interpreter (System V gABI, chapter 5), and the libraries that a program
//! opens by itself, which it says in notes (UAPI.11, "ELF Dlopen Metadata"). Libraries are looked for where glibc's
//! loader would, without its cache: the object's own run path, then the distribution's directories.

use crate::model::Arch;
use crate::tree::{Content, Tree, TreePath};
use anyhow::{Context as _, bail};
use object::Endianness;
use object::elf::{DT_NEEDED, DT_RPATH, DT_RUNPATH, DT_STRSZ, DT_STRTAB, FileHeader64, PT_INTERP, PT_LOAD};
use object::read::StringTable;
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use serde::Deserialize;

/// The longest ELF file that is read: systemd's libraries are 4 MiB, Go programs some 100.
const MAX_ELF: u64 = 512 << 20;
/// Type of a dlopen note (UAPI.11).
const NOTE_DLOPEN: u32 = 0x407c_0c0a;

/// What one file asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The program interpreter, as an absolute path.
    pub interpreter: Option<String>,
    /// Names of libraries that must be there.
    pub needed: Vec<String>,
    /// Directories to look in first, as written.
    pub run_path: Vec<String>,
    /// Libraries that the file opens by itself.
    pub dlopen: Vec<Dlopen>,
}

/// A library that is opened at run time, from a dlopen note.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Dlopen {
    /// What it is for, in the program's own word.
    #[serde(default)]
    pub feature: String,
    /// How much the program wants it.
    #[serde(default)]
    pub priority: Priority,
    /// Names, of which the first that is there is opened.
    pub soname: Vec<String>,
}

/// How much a library is wanted (UAPI.11).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Only for a feature that may well be unused.
    Suggested,
    /// Where it is missing, a feature that most use is missing.
    #[default]
    Recommended,
    /// The program does not work without.
    Required,
}

/// Reads what `content` asks for; `None` where it is no ELF file.
///
/// # Errors
/// When the file is ELF but not 64-bit, or its tables do not hold together.
pub fn needs(content: &Content) -> anyhow::Result<Option<Needs>> {
    let mut magic = [0; 4];
    if content.len() < 64 {
        return Ok(None);
    }
    content.read_exact_at(&mut magic, 0)?;
    if magic != object::elf::ELFMAG {
        return Ok(None);
    }
    parse(&content.to_vec(MAX_ELF)?).map(Some)
}

fn parse(data: &[u8]) -> anyhow::Result<Needs> {
    let header = FileHeader64::<Endianness>::parse(data).context("reading the ELF header")?;
    let endian = header.endian()?;
    let segments = header.program_headers(endian, data)?;
    let mut needs = Needs::default();
    let mut dynamic = None;
    for segment in segments {
        if segment.p_type(endian) == PT_INTERP {
            let raw = segment.data(endian, data).unwrap_or_default();
            let path = raw.split(|c| *c == 0).next().unwrap_or_default();
            needs.interpreter = Some(std::str::from_utf8(path).context("reading the interpreter")?.into());
        }
        if let Some(entries) = segment.dynamic(endian, data)? {
            dynamic = Some(entries);
        }
        let Some(mut notes) = segment.notes(endian, data)? else { continue };
        while let Some(note) = notes.next()? {
            if note.name() == b"FDO" && note.n_type(endian) == NOTE_DLOPEN {
                let text = note.desc().split(|c| *c == 0).next().unwrap_or_default();
                let listed: Vec<Dlopen> = serde_json::from_slice(text).context("reading a dlopen note")?;
                needs.dlopen.extend(listed);
            }
        }
    }
    let Some(dynamic) = dynamic else { return Ok(needs) };
    let value = |tag: u32| {
        dynamic.iter().find(|d| d.d_tag.get(endian) == u64::from(tag)).map(|d| d.d_val.get(endian))
    };
    let (Some(address), Some(size)) = (value(DT_STRTAB), value(DT_STRSZ)) else { return Ok(needs) };
    let at = segments
        .iter()
        .filter(|s| s.p_type(endian) == PT_LOAD)
        .find_map(|s| {
            let into = address.checked_sub(s.p_vaddr(endian)).filter(|n| *n < s.p_filesz(endian))?;
            s.p_offset(endian).checked_add(into)
        })
        .context("the string table lies outside the file")?;
    let end = at.checked_add(size).filter(|end| *end <= data.len() as u64);
    let strings = StringTable::new(data, at, end.context("the string table is cut short")?);
    for entry in dynamic {
        let tag = entry.d_tag.get(endian);
        let text = || -> anyhow::Result<String> {
            let offset = u32::try_from(entry.d_val.get(endian))?;
            let raw = strings.get(offset).ok().context("a name lies outside the string table")?;
            Ok(std::str::from_utf8(raw).context("a name is not UTF-8")?.into())
        };
        if tag == u64::from(DT_NEEDED) {
            needs.needed.push(text()?);
        } else if tag == u64::from(DT_RUNPATH) || tag == u64::from(DT_RPATH) {
            needs.run_path.extend(text()?.split(':').map(String::from));
        }
    }
    Ok(needs)
}

/// Every file that `path` loads directly: interpreter, needed libraries, and those opened at run time that are
/// recommended or belong to one of `features`. Paths are as looked up, symbolic links not followed.
///
/// # Errors
/// When the file cannot be read, or something that it needs is not in the tree: the error names both.
pub fn loads(os: &Tree, arch: Arch, path: &TreePath, features: &[&str]) -> anyhow::Result<Vec<TreePath>> {
    let Some(content) = os.file(path) else { return Ok(vec![]) };
    let Some(needs) = needs(content).with_context(|| format!("reading {path}"))? else { return Ok(vec![]) };
    let origin = path.parent().unwrap_or_default();
    let mut dirs: Vec<String> =
        needs.run_path.iter().map(|d| d.replace("$ORIGIN", &format!("/{origin}"))).collect();
    // A private library's siblings: the program that has the run path loads them before the library asks.
    dirs.push(origin.as_str().into());
    for base in ["usr/lib", "lib"] {
        dirs.extend([format!("{base}/{}", arch.multiarch()), base.to_string()]);
    }
    let find = |name: &str| {
        dirs.iter().find_map(|dir| {
            let path = TreePath::parse(&format!("{dir}/{name}")).ok()?;
            os.resolve(&path).map(|_| path)
        })
    };
    let mut found = vec![];
    if let Some(interpreter) = &needs.interpreter {
        found.push(TreePath::parse(interpreter)?);
    }
    for name in &needs.needed {
        match find(name) {
            Some(library) => found.push(library),
            None => bail!("{path} needs the library `{name}`, which is nowhere in the tree"),
        }
    }
    for open in &needs.dlopen {
        let wanted = open.priority > Priority::Suggested || features.contains(&open.feature.as_str());
        let library = if wanted { open.soname.iter().find_map(|name| find(name)) } else { None };
        if library.is_none() && open.priority == Priority::Required {
            bail!("{path} opens the library `{}`, which is nowhere in the tree", open.soname.join("` or `"));
        }
        found.extend(library);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_program_needs_the_c_library() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let needs = needs(&bytes.into()).unwrap().unwrap();
        assert!(needs.interpreter.unwrap().contains("/ld-linux"));
        assert!(needs.needed.iter().any(|n| n == "libc.so.6"), "{:?}", needs.needed);
    }

    #[test]
    fn a_script_is_no_elf_and_a_cut_file_is_an_error() {
        assert_eq!(needs(&b"#!/bin/sh\n".repeat(20).into()).unwrap(), None);
        let mut bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        bytes.truncate(200);
        assert!(needs(&bytes.into()).is_err());
    }

    #[test]
    fn dlopen_notes_default_to_recommended() {
        let list: Vec<Dlopen> = serde_json::from_str(
            r#"[{"soname":["a.so.1"]},{"feature":"tpm","description":"d","priority":"suggested","soname":["b.so"]}]"#,
        )
        .unwrap();
        assert_eq!(list[0].priority, Priority::Recommended);
        assert_eq!((list[1].feature.as_str(), list[1].priority), ("tpm", Priority::Suggested));
    }
}
