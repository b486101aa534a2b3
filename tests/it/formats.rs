//! Disks in the formats of hypervisors, against the program that reads them all.

use crate::fixture::{self, digests, events, forge, ok, refused};
use crate::support::tool;
use forge::disk::format::{self, Format};
use forge::disk::{Extents, compressed};
use forge::model::Guid;
use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

const FORMATS: [Format; 3] = [Format::Qcow2, Format::Vmdk, Format::Vhdx];

fn qemu_img(program: &Path, args: &[&str], files: &[&Path]) -> String {
    ok(Command::new(program).args(args).args(files))
}

/// Holds `image` against the raw disk that it was made from; what `qemu-img info` says.
fn assert_reads_as(program: &Path, image: &Path, raw: &Path, format: Format) -> serde_json::Value {
    let name = format.extension();
    let checked = qemu_img(program, &["check", "--output=json", "-f", name], &[image]);
    let checked: serde_json::Value = serde_json::from_str(&checked).unwrap();
    for fault in ["corruptions", "leaks", "check-errors"] {
        assert!(checked[fault].as_u64().unwrap_or(0) == 0, "{name}: {checked}");
    }
    // Without -f the program has to recognise the format by itself.
    let info = qemu_img(program, &["info", "--output=json"], &[image]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["format"], name);
    assert_eq!(info["virtual-size"], raw.metadata().unwrap().len());
    let said = qemu_img(program, &["compare", "-f", "raw", "-F", name], &[raw, image]);
    assert!(said.contains("Images are identical"), "{name}: {said}");
    info
}

/// Bytes of which a third compress, a third do not, and a third are zero, in pieces of every length.
fn mixed(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut out = vec![];
    while out.len() < length {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let run = (state >> 15) as usize % 150_000;
        match state >> 30 {
            0 => out.extend(std::iter::repeat_n(0, run)),
            1 => out.extend(b"forge ".iter().cycle().take(run)),
            _ => out.extend(
                (0..run as u32).map(|i| (i ^ state).wrapping_mul(2_654_435_761) as u8 ^ (i >> 7) as u8),
            ),
        }
    }
    out.truncate(length);
    out
}

#[test]
fn odd_disks_pass_qemu_img() {
    let Some(program) = tool("qemu-img") else { return };
    let dir = tempfile::tempdir().unwrap();
    for (length, at, data) in [
        (512, 0, 512),
        (1 << 20, 0, 1 << 20),
        ((3 << 20) + 2048, 1536, 3 << 20),
        (600 << 20, 510 << 20, 5_000_000), // over the edge of what one table maps
        (5 << 30, (5 << 30) - 70_000, 70_000), // only the end
        (40 << 20, 0, 40 << 20),
        (64 << 20, 0, 0),
    ] {
        let bytes = mixed(data);
        let raw = dir.path().join("disk.raw");
        let file = File::create(&raw).unwrap();
        file.write_all_at(&bytes, at).unwrap();
        file.set_len(length).unwrap();
        let mut disk = Extents::new(length);
        disk.push(at, bytes.into()).unwrap();
        for format in FORMATS {
            let image = dir.path().join(format!("disk.{}", format.extension()));
            format::write(format, &disk, Guid::from_u128(7), &File::create(&image).unwrap()).unwrap();
            assert_reads_as(&program, &image, &raw, format);
        }
    }
}

/// Builds the shared profile in all formats below `dir`; the release.
fn build(shared: &fixture::Fixture, dir: &Path) -> PathBuf {
    let cache = shared.warm_cache_in(dir);
    let names = FORMATS.map(|f| format!("\"{}\"", f.extension())).join(",");
    let mut build = forge(&cache);
    build.args(["--json", "build", "--locked", "--offline"]).arg(shared.profile());
    build.args(["--set", &format!("image.disk-formats=[{names}]")]);
    // The installer's program is the device's own, which `hack/device` builds.
    build.env("FORGE_DEVICE_DIR", Path::new(env!("CARGO_MANIFEST_DIR")).join("target/device"));
    build.args(["--set", "image.artifacts=[\"oci\",\"disk\",\"iso\"]"]);
    let told = ok(build.arg("--out").arg(dir.join("out")));
    for step in events(&told, "step") {
        if step["cached"] == false {
            println!("{} {}", step["step"], step["seconds"]);
        }
    }
    events(&told, "release")[0]["dir"].as_str().unwrap().into()
}

#[test]
fn a_release_has_its_disk_in_every_format() {
    let Some(shared) = fixture::shared() else { return };
    let Some(program) = tool("qemu-img") else { return };
    let scratch = shared.scratch();
    let (first, second) = (scratch.path().join("first"), scratch.path().join("second"));
    let release = build(shared, &first);
    assert_eq!(digests(&build(shared, &second)), digests(&release), "two builds, other bytes");
    std::fs::remove_dir_all(second).unwrap();

    let raw = scratch.path().join("disk.raw");
    let plain = File::create_new(&raw).unwrap();
    compressed::read(File::open(shared.disk()).unwrap(), &plain, 1 << 40, &|| false).unwrap();
    let allocated = plain.metadata().unwrap().blocks() * 512;
    println!(
        "raw {allocated} of {}, raw.zst {}",
        plain.metadata().unwrap().len(),
        shared.disk().metadata().unwrap().len()
    );
    for format in FORMATS {
        let image = release.join("amd64").join(format!("disk.{}", format.extension()));
        let info = assert_reads_as(&program, &image, &raw, format);
        println!("{} {}", format.extension(), image.metadata().unwrap().len());
        let back = image.with_extension("back");
        qemu_img(&program, &["convert", "-f", format.extension(), "-O", "raw"], &[&image, &back]);
        assert!(fixture::digest(&back) == fixture::digest(&raw), "{format:?} unpacks to other bytes");
        std::fs::remove_file(back).unwrap();
        let details = &info["format-specific"]["data"];
        match format {
            Format::Qcow2 => {
                assert_eq!(
                    (&details["compat"], &details["compression-type"]),
                    (&"1.1".into(), &"zstd".into())
                );
                assert!(image.metadata().unwrap().len() < allocated * 3 / 4);
            }
            Format::Vhdx => {
                assert!(image.metadata().unwrap().len() < allocated + (16 << 20));
            }
            Format::Vmdk => {
                assert_eq!(details["create-type"], "streamOptimized");
                assert_eq!(details["extents"][0]["compressed"], true);
                assert!(image.metadata().unwrap().len() < allocated * 3 / 4);
            }
        }
    }

    medium(&release, &shared.disk(), scratch.path());

    let verify = |release: &Path| {
        let mut verify = forge(&first.join("cache"));
        verify.args(["--json", "verify"]).arg(release).arg("--key").arg(shared.key());
        verify
    };
    let said = refused(forge(&first.join("cache")).arg("run").arg(&release), 2);
    assert!(said.contains("no disk image to run") && said.contains("raw.zst"), "{said}");
    let held = ok(&mut verify(&release));
    let listed = ok(forge(&first.join("cache")).args(["--json", "inspect"]).arg(&release));
    for format in FORMATS {
        let name = format!("amd64/disk.{}", format.extension());
        let held = events(&held, "held");
        assert_eq!(
            held.iter().filter(|h| h["what"] == *name).count(),
            2,
            "digest and signature of {name}: {held:?}"
        );
        assert!(listed.contains(&name), "{listed}");
        let said = refused(forge(&first.join("cache")).arg("inspect").arg(release.join(&name)), 2);
        assert!(said.contains(&format!("a disk as {}", format.extension())), "{said}");
        let file = File::options().read(true).write(true).open(release.join(&name)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 200_000).unwrap();
        file.write_all_at(&[byte[0] ^ 1], 200_000).unwrap();
        let said = refused(&mut verify(&release), 4);
        assert!(said.contains(&name), "{said}");
        file.write_all_at(&byte, 200_000).unwrap();
    }
}

/// The installer's medium as other programs read it: ISO 9660 with a boot image for EFI, a partition table, and in both the
/// disk image that it installs.
fn medium(release: &Path, disk: &Path, scratch: &Path) {
    let iso = release.join("amd64/installer.iso");
    if let Some(xorriso) = tool("xorriso") {
        let call = |args: &[&str]| {
            let mut call = Command::new(&xorriso);
            call.args(["-no_rc", "-abort_on", "WARNING", "-indev"]).arg(&iso).args(args);
            ok(&mut call)
        };
        let said = call(&["-report_el_torito", "plain"]);
        assert!(said.lines().any(|l| l.contains("El Torito boot img") && l.contains("UEFI")), "{said}");
        let out = scratch.join("disk.raw.zst");
        let listed = call(&["-find", "/", "-type", "f"]);
        let name =
            listed.lines().map(|l| l.trim_matches('\'')).find(|l| l.to_lowercase().ends_with("disk.zst"));
        call(&[
            "-osirrox",
            "on",
            "-extract",
            name.unwrap_or_else(|| panic!("{listed}")),
            out.to_str().unwrap(),
        ]);
        assert_eq!(fixture::digest(&out), fixture::digest(disk), "the medium has another disk image");
    }
    if let Some(sfdisk) = tool("sfdisk") {
        let said = ok(Command::new(sfdisk).arg("--verify").arg(&iso));
        assert!(said.contains("No errors detected"), "{said}");
    }
}
