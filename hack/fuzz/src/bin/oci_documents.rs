//! Index, manifest and config of an image, and the store that is written from them.
#![no_main]

use forge::layer::workload::store::{OciImage, store_tree};
use forge::model::Epoch;
use forge::oci::{Index, Manifest, image, json, layout, referrer};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(index) = json::parse::<Index>(bytes) {
        for entry in index.manifests() {
            let _ = (forge::oci::digest(entry), layout::ref_name(entry), referrer::may_refer(entry));
        }
        let _ = json::canonical(&index);
    }
    if let Ok(manifest) = json::parse::<Manifest>(bytes) {
        let _ = (referrer::classic_layers(&manifest).count(), json::canonical(&manifest));
    }
    if let Ok(config) = json::parse::<oci_spec::image::ImageConfiguration>(bytes) {
        let _ = image::diff_ids(&config);
    }
    // Manifest and config of one image, with a NUL between them.
    if let Some(at) = bytes.iter().position(|b| *b == 0) {
        let (manifest, config) = (bytes[..at].to_vec(), bytes[at + 1..].to_vec());
        let image = OciImage { names: vec![], index: None, manifest, config, layers: vec![] };
        let _ = store_tree(&[image], Epoch(1_700_000_000));
    }
});
