//! No file of problems may panic the reader; what it refuses, it refuses in one line that names the line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::Path;
use toolsmith::task::dataset::{self, Error};

fuzz_target!(|bytes: &[u8]| {
    match dataset::read_lines(Path::new("f.jsonl"), bytes, dataset::problem) {
        Ok(problems) => assert!(!problems.is_empty()),
        Err(e @ Error::Line { line, .. }) => {
            let shown = e.to_string();
            assert!(shown.starts_with(&format!("f.jsonl:{line}: ")));
            assert_eq!(shown.lines().count(), 1, "{shown}");
        }
        Err(e) => assert!(matches!(e, Error::Empty(_))),
    }
});
