//! A hash tree over data: the root hash in 32 bytes, the tree in two blocks, the data.
#![no_main]

use forge::boot::verity::{self, RootHash};
use forge::model::Digest;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((root, rest)) = bytes.split_first_chunk::<32>() else { return };
    let (tree, data) = rest.split_at(rest.len().min(8192));
    let root: RootHash = Digest::from_raw(*root).hex().parse().expect("32 bytes are a root hash");
    if let Ok(verified) = verity::verify(&data.to_vec().into(), &tree.to_vec().into(), &root) {
        assert!(verified.data_length <= data.len() as u64 && verified.root_hash == root);
    }
});
