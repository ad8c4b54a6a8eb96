//! No response may panic the answer reader, and what it reads must survive being printed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use toolsmith::task::answer;
use toolsmith::task::number::Number;

fuzz_target!(|text: &str| {
    let _ = answer::closed_box(text);
    if let Some(content) = answer::boxed(text) {
        assert!(text.contains(content));
    }
    if let Some(number) = answer::final_answer(text).or_else(|| Number::parse(text)) {
        let shown = number.to_string();
        if shown.len() < 900 {
            assert_eq!(Number::parse(&shown), Some(number), "{shown}");
        }
    }
});
