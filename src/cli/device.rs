//! Where the program `forge-device` is that goes into images: built by `hack/device`, and installed beside forge.

use crate::error::{Kind, Mark as _};
use crate::host::env;
use crate::model::{Arch, Digest};
use crate::source::blobs::Blobs;
use anyhow::{Context as _, anyhow, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Names another directory than that of forge itself.
const DIRECTORY: &str = "FORGE_DEVICE_DIR";
/// Far above what it is: whatever is larger is something else.
const MAX_PROGRAM: u64 = 64 << 20;

/// Takes the programs for `archs` into the cache; their digests.
pub fn programs(archs: impl Iterator<Item = Arch>, blobs: &Blobs) -> anyhow::Result<BTreeMap<Arch, Digest>> {
    let beside = env::program().ok().and_then(|own| Some(own.parent()?.to_path_buf()));
    let dirs: Vec<PathBuf> = env::var(DIRECTORY).map(PathBuf::from).into_iter().chain(beside).collect();
    let program = |arch| {
        let file = find(&dirs, arch)
            .ok_or_else(|| anyhow!("the program forge-device for {arch} is not there"))
            .kind(Kind::Input)
            .hint(format!(
                "`hack/device {arch}` builds target/device/{arch}/forge-device: put it beside forge as forge-device-{arch}, or set {DIRECTORY} to target/device"
            ))?;
        let bytes =
            read(&file, arch).with_context(|| format!("reading {}", file.display())).kind(Kind::Input)?;
        Ok((arch, blobs.insert_bytes(&bytes)?))
    };
    archs.map(program).collect()
}

fn find(dirs: &[PathBuf], arch: Arch) -> Option<PathBuf> {
    let names = [format!("forge-device-{arch}"), format!("{arch}/forge-device")];
    dirs.iter().flat_map(|dir| names.iter().map(|name| dir.join(name))).find(|file| file.is_file())
}

/// The program, which has to be one for `arch`: a box with another's would never join, and nobody is there to see it.
fn read(file: &Path, arch: Arch) -> anyhow::Result<Vec<u8>> {
    let size = std::fs::metadata(file)?.len();
    ensure!(size <= MAX_PROGRAM, "{size} bytes are no forge-device");
    let bytes = std::fs::read(file)?;
    // ELF, 64 bits, little-endian; e_machine as in elf.h.
    let machine: [u8; 2] = match arch {
        Arch::Amd64 => [62, 0],
        Arch::Arm64 => [183, 0],
    };
    let fits = bytes.starts_with(b"\x7fELF\x02\x01") && bytes.get(18..20) == Some(&machine[..]);
    ensure!(fits, "it is no program for {arch}");
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_in_both_layouts_and_held_against_its_architecture() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().to_path_buf()];
        assert!(find(&dirs, Arch::Arm64).is_none());
        let mut elf = b"\x7fELF\x02\x01".to_vec();
        elf.resize(64, 0);
        elf[18] = 183;
        for name in ["arm64/forge-device", "forge-device-amd64"] {
            crate::host::fs::write_atomic(&dir.path().join(name), &elf, 0o755).unwrap();
        }
        assert_eq!(read(&find(&dirs, Arch::Arm64).unwrap(), Arch::Arm64).unwrap(), elf);
        let refused = read(&find(&dirs, Arch::Amd64).unwrap(), Arch::Amd64).unwrap_err();
        assert!(refused.to_string().contains("no program for amd64"));
    }
}
