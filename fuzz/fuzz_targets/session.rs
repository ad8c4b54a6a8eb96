//! A parked interpreter as bytes, from another process or a file: read, or refused; what is read is written the same.

#![no_main]

use toolsmith_sandbox::Session;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(session) = Session::from_bytes(data) {
        let bytes = session.to_bytes().expect("it is in memory");
        let again = Session::from_bytes(&bytes).expect("its own bytes");
        assert_eq!(again.to_bytes().expect("it is in memory"), bytes);
    }
});
