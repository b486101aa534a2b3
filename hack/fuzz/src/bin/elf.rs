//! What a program or library asks for.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = forge::boot::elf::needs(&bytes.to_vec().into());
});
