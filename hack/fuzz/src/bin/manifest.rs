//! Kubernetes manifests, and what podman could not start of them.
#![no_main]

use forge::layer::kubernetes::podman;
use forge::layer::workload::{Workload, manifest};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = manifest::parse("app.yaml", bytes) {
        let _ = (manifest.images().count(), manifest.host_ports().count(), manifest.pods().count());
        let manifests = vec![(manifest, bytes.to_vec().into())];
        let _ = podman::check(&[Workload { name: "app".into(), required: true, manifests }]);
    }
});
