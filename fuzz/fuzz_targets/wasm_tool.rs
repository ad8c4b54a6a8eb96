//! What a tool's module may say to its host: pointers, lengths and a description of any content.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| toolsmith_sandbox::tool::exercise(data));
