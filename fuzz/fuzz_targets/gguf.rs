//! A GGUF file of any content: everything that conversion reads of it answers.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use toolsmith_models::gguf::{Gguf, model, vocab};
use toolsmith_models::tokenizer::Tokenizer;

fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let Ok(gguf) = Gguf::open(file.path()) else { return };
    for name in gguf.names() {
        let _ = gguf.floats(name);
    }
    if let Ok(config) = model::config(&gguf) {
        for spec in config.param_specs() {
            let _ = model::tensor(&gguf, &config, &spec);
        }
    }
    if let Ok(text) = vocab::vocab(&gguf) {
        let _ = Tokenizer::from_json(text.tokenizer.to_string(), Value::Null, file.path());
    }
});
