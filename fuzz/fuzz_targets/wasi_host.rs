//! The system calls of the Python sandbox, called with whatever the input says, as a hostile program could.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| toolsmith_sandbox::exercise(data));
