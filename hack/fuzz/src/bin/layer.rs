//! A layer's blob: the first byte picks its media type.
#![no_main]

use forge::model::Digest;
use forge::oci::{layer, validate};
use forge_fuzz::with_tar_checksums;

/// Enough for any entry, and little enough to be read in a moment.
const LIMIT: u64 = 16 << 20;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((kind, blob)) = bytes.split_first() else { return };
    let media_type = [layer::TAR, layer::TAR_GZIP, layer::TAR_ZSTD][usize::from(*kind) % 3];
    let blob = with_tar_checksums(blob);
    let _ = validate::entries(Digest::of([]), media_type, &blob[..], LIMIT);
});
