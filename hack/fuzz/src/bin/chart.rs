//! Helm charts from outside: packages, values, a repository's index; and manifests of models.
#![no_main]

use forge::layer::workload::chart;
use forge::oci::{Manifest, json};
use forge::source::remote;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let half = bytes.len() / 2;
    let _ = chart::read(bytes, b"");
    // Behind gzip nothing would be reached: the archive's own bytes, packed.
    let mut packed = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    let tar = forge_fuzz::with_tar_checksums(&bytes[..half]);
    if std::io::Write::write_all(&mut packed, &tar).is_ok()
        && let Ok(package) = packed.finish()
    {
        let _ = chart::read(&package, &bytes[half..]);
    }
    let _ = chart::listed(bytes, "broker", "1.0.0");
    if let Ok(manifest) = json::parse::<Manifest>(bytes)
        && let Ok(parts) = remote::parts(&manifest)
        && remote::check(&parts).is_ok()
    {
        assert!(parts.iter().all(|p| p.unpack || !p.path.split('/').any(|c| c == ".." || c.is_empty())));
    }
});
