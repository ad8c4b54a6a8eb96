//! A checkpoint file of any content: opening it answers, and what is accepted can be read to its end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use toolsmith_models::checkpoint::Checkpoint;

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    if let Ok(checkpoint) = Checkpoint::open(dir.path()) {
        for name in checkpoint.names() {
            let _ = checkpoint.tensor(name).map(|t| t.bytes.iter().fold(0, |a, b| a ^ b));
        }
    }
});
