//! A lock: what is read is written again byte for byte.
#![no_main]

use forge::lock::{Demand, Lock};

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(lock) = Lock::from_text(text) {
        assert_eq!(lock.to_text(), text);
        let _ = lock.check(&Demand::default());
    }
    // Where the schema line is missing nothing is looked at: put it there for the fuzzer.
    let _ = Lock::from_text(&format!("schema = 1\n{text}"));
});
