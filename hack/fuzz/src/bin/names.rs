//! Names of images, digests, keys, sites; paths of trees: short texts from profiles, locks and registries.
#![no_main]

use forge::layer::workload::name::ImageName;
use forge::model::{Digest, Guid, SiteName};
use forge::oci::Reference;
use forge::tree::TreePath;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(reference) = text.parse::<Reference>() {
        let again: Reference = reference.to_string().parse().expect("a reference's own spelling is one");
        assert_eq!(again.to_string(), reference.to_string());
    }
    if let Ok(name) = text.parse::<ImageName>() {
        let _ = (name.to_string(), name.local().to_string());
    }
    let _ = (text.parse::<Digest>(), text.parse::<Guid>(), SiteName::parse(text));
    let _ = text.parse::<forge::sign::KeyRef>();
    let _ = text.parse::<forge::layer::workload::container::Port>();
    if let Ok(path) = TreePath::parse(text) {
        assert!(!path.as_str().starts_with('/') && path.components().all(|c| c != ".." && c != "."));
        assert_eq!(TreePath::parse(path.as_str()).expect("a path's own spelling is one"), path);
    }
});
