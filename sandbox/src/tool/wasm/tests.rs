use serde_json::json;

use super::*;

/// A module that bump-allocates from 4096 on, with `body` as `call` and more definitions.
fn module(body: &str, more: &str) -> String {
    format!(
        r#"(module (memory (export "memory") 1)
        (func (export "alloc") (param i32) (result i32) (i32.const 4096))
        (func (export "call") (param $at i32) (param $len i32) (result i64) {body})
        (data (i32.const 16) "hello, world") {more})"#
    )
}

fn limits() -> Limits {
    Limits { fuel: 1_000_000, memory_mb: 8, output_bytes: 1000, wall_ms: 30_000, traceback: false }
}

fn tool_within(limits: &Limits, wat: &str) -> Result<WasmTool, ToolError> {
    WasmTool::with_spec(wat.as_bytes(), Spec::new("t", "A test.", json!({})).unwrap(), limits)
}

fn call_within(limits: &Limits, body: &str, more: &str) -> ToolOutput {
    let tool = tool_within(limits, &module(body, more)).unwrap();
    tool.call(&json!({"x": "y"}), &Cancel::new())
}

fn call(body: &str, more: &str) -> ToolOutput {
    call_within(&limits(), body, more)
}

fn refused(wat: &str) -> String {
    let error = tool_within(&limits(), wat).err().expect("it is refused").to_string();
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

/// `ptr << 32 | len` as a constant.
fn packed(at: u32, len: u32) -> String {
    format!("(i64.const {})", (u64::from(at) << 32 | u64::from(len)) as i64)
}

const ECHO: &str = "(i64.or (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32)) (i64.extend_i32_u (local.get $len)))";
const FOREVER: &str = "(loop $l (br $l)) (unreachable)";

#[test]
fn arguments_go_in_as_json_and_text_comes_out() {
    let output = call(ECHO, "");
    assert_eq!((output.text.as_str(), output.ok, output.limit_hit), (r#"{"x":"y"}"#, true, None));
    assert_eq!(output.fuel, 2, "alloc and call");
    assert_eq!(call(&packed(16, 5), "").text, "hello");
    assert_eq!(call(&packed(0, 0), "").text, "");
    let failed = call(&packed(23, 5 | 1 << 31), "");
    assert_eq!((failed.text.as_str(), failed.ok), ("Error: world", false));
    // Not UTF-8: replaced, not refused.
    assert_eq!(call(&packed(64, 3), r#"(data (i32.const 64) "a\ffb")"#).text, "a\u{fffd}b");
}

#[test]
fn every_call_starts_anew() {
    let body = "(global.set $n (i32.add (global.get $n) (i32.const 1)))
        (i32.store8 (i32.const 16) (i32.add (i32.load8_u (i32.const 16)) (global.get $n)))
        (table.set $t (i32.const 0) (ref.func $f)) (data.drop $d)
        (drop (memory.grow (i32.const 3)))";
    let more = "(global $n (mut i32) (i32.const 0)) (table $t 1 funcref) (func $f) (elem declare func $f) (data $d \"x\")";
    let tool = tool_within(&limits(), &module(&format!("{body} {}", packed(16, 5)), more)).unwrap();
    let first = tool.call(&json!({}), &Cancel::new());
    assert_eq!((first.text.as_str(), first.ok), ("iello", true));
    std::thread::scope(|scope| {
        let again = || (0..50).for_each(|_| assert_eq!(tool.call(&json!({}), &Cancel::new()), first));
        scope.spawn(again);
        scope.spawn(again);
    });
}

#[test]
fn an_endless_loop_runs_out_of_fuel() {
    let output = call(FOREVER, "");
    assert_eq!(output.text, "Error: the tool ran too long (more than 1000000 steps)");
    assert_eq!((output.fuel, output.limit_hit, output.ok), (1_000_000, Some(Limit::Fuel), false));
    assert_eq!(call(FOREVER, ""), output, "at the same step");
    let output = call(&packed(0, 0), &format!("(func (export \"_initialize\") {FOREVER})"));
    assert_eq!(output.limit_hit, Some(Limit::Fuel), "{output:?}");
}

#[test]
fn bulk_instructions_cost_fuel() {
    let data = format!("(table $t 0 funcref) (data $d \"{}\")", "x".repeat(4096));
    for (body, bytes) in [
        ("(memory.fill (i32.const 0) (i32.const 0) (i32.const 65536))", 65536),
        ("(drop (table.grow $t (ref.null func) (i32.const 65535)))", 65535),
        ("(memory.init $d (i32.const 0) (i32.const 0) (i32.const 4096))", 4096),
    ] {
        let output = call(&format!("{body} (i64.const 0)"), &data);
        assert_eq!((output.fuel, output.ok), (2 + (bytes >> crate::meter::BULK), true), "{body}");
    }
}

#[test]
fn the_wall_clock_stands_behind_fuel() {
    let patient = Limits { fuel: u64::MAX, wall_ms: 50, ..limits() };
    let output = call_within(&patient, FOREVER, "");
    assert_eq!(
        (output.limit_hit, output.text.as_str()),
        (Some(Limit::Wall), "Error: the tool ran longer than 50 ms")
    );
}

#[test]
fn a_call_can_be_cancelled() {
    let patient = Limits { fuel: u64::MAX, ..limits() };
    let tool = tool_within(&patient, &module(FOREVER, "")).unwrap();
    let (cancel, started) = (Cancel::new(), Instant::now());
    let output = std::thread::scope(|scope| {
        let calling = scope.spawn(|| tool.call(&json!({}), &cancel));
        std::thread::sleep(Duration::from_millis(30));
        cancel.fire();
        calling.join().unwrap()
    });
    assert_eq!(
        (output.limit_hit, output.text.as_str()),
        (Some(Limit::Cancelled), "Error: the call was cancelled")
    );
    assert!(started.elapsed() < Duration::from_secs(20));
    assert_eq!(tool.call(&json!({}), &cancel).fuel, 0, "a fired token starts nothing");
}

#[test]
fn memory_stops_at_its_cap() {
    // Grows until it is refused, then answers.
    let polite =
        format!("(loop $l (br_if $l (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) {}", packed(16, 5));
    let output = call(&polite, "");
    assert_eq!((output.text.as_str(), output.ok, output.fuel), ("hello", true, 2 + 128));
    let rude = "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) (unreachable)";
    let output = call(rude, "");
    assert_eq!(
        (output.limit_hit, output.text.as_str()),
        (Some(Limit::Memory), "Error: the tool used more than 8 MB")
    );
    let fill = "(drop (memory.grow (i32.const 32767))) (i32.store (i32.const 0x7ffffff0) (i32.const 1)) (i64.const 0)";
    assert_eq!(call(fill, "").limit_hit, Some(Limit::Memory));
    let large = r#"(module (memory (export "memory") 129)
        (func (export "alloc") (param i32) (result i32) (i32.const 0))
        (func (export "call") (param i32 i32) (result i64) (i64.const 0)))"#;
    assert_eq!(refused(large), "t: it starts with 9 MB of memory, more than limits.memory_mb, 8");
}

#[test]
fn tables_stop_too() {
    let body = format!(
        "(if (i32.ne (table.grow $t (ref.null func) (i32.const 65000)) (i32.const 0)) (then (unreachable)))
         (if (i32.ne (table.grow $t (ref.null func) (i32.const 65000)) (i32.const -1)) (then (unreachable))) {}",
        packed(16, 5)
    );
    assert_eq!(call(&body, "(table $t 0 funcref)").text, "hello");
    let large = refused(&module(ECHO, "(table 65537 funcref)"));
    assert!(large.contains("a table of 65537 elements"), "{large}");
}

#[test]
fn pointers_beyond_memory_are_refused() {
    let output = call(&packed(65_530, 7), "");
    assert_eq!(output.text, "Error: its result is at 65530..65537, beyond its memory of 65536 bytes");
    assert!(call("(i64.const -1)", "").text.contains("beyond its memory"));
    for (alloc, problem) in
        [("-1", "beyond its memory"), ("65530", "beyond its memory"), ("0", "has no room for 9 bytes")]
    {
        let wat = module(ECHO, "").replace("(i32.const 4096)", &format!("(i32.const {alloc})"));
        let output = tool_within(&limits(), &wat).unwrap().call(&json!({"x": "y"}), &Cancel::new());
        assert!(output.text.contains(problem) && !output.ok, "{output:?}");
    }
}

#[test]
fn a_huge_result_is_cut() {
    let body = format!("(drop (memory.grow (i32.const 100))) {}", packed(16, 6_000_000));
    let output = call(&body, "");
    assert!(output.text.starts_with("hello, world\0\0"), "{output:?}");
    assert!(output.text.contains("[5999000 bytes left out]") && output.text.len() < 1100);
    assert_eq!((output.ok, output.limit_hit), (true, Some(Limit::Output)));
}

#[test]
fn a_trap_is_a_failed_call() {
    for (body, problem) in [
        ("(unreachable)", "unreachable"),
        ("(i64.div_u (i64.const 1) (i64.const 0))", "divide by zero"),
        ("(i64.load (i32.const -8))", "out of bounds memory access"),
    ] {
        let output = call(body, "");
        assert!(
            output.text.starts_with("Error: the tool trapped: ") && output.text.contains(problem),
            "{output:?}"
        );
        assert_eq!((output.ok, output.limit_hit), (false, None));
    }
    let deep = call_within(
        &Limits { fuel: u64::MAX, ..limits() },
        "(call $f (i64.const 1))",
        "(func $f (param i64) (result i64) (i64.add (local.get 0) (call $f (i64.add (local.get 0) (i64.const 1)))))",
    );
    assert_eq!(
        (deep.text.as_str(), deep.limit_hit),
        ("Error: the tool's stack overflowed", Some(Limit::Crash))
    );
}

#[test]
fn nans_are_canonical() {
    let body = "(i64.store (i32.const 64) (i64.reinterpret_f64 (f64.div (f64.const -0) (f64.const 0))))
        (i32.store8 (i32.const 71) (i32.sub (i32.load8_u (i32.const 71)) (i32.const 0x30))) ";
    // 0x7ff8…: the last byte is 0x7f less 0x30, an `O`.
    assert_eq!(call(&format!("{body} {}", packed(71, 1)), "").text, "O");
}

#[test]
fn what_a_module_must_not_be_is_named() {
    for (wat, problem) in [
        (
            r#"(module (import "env" "abort" (func)) (import "wasi_snapshot_preview1" "fd_write" (func)))"#,
            "t: it imports env.abort, wasi_snapshot_preview1.fd_write, and nothing is given; build it without, as for wasm32-unknown-unknown",
        ),
        (r#"(module (import "env" "memory" (memory 1)))"#, "it imports env.memory"),
        ("(module)", "it exports no `alloc(i32) -> (i32)`"),
        (
            r#"(module (func (export "alloc") (result i32) (i32.const 0)))"#,
            "its export `alloc` is not `alloc(i32) -> (i32)`",
        ),
        (
            &module(ECHO, "(func $s) (start $s)"),
            "it has a start function; export it as `_initialize` instead",
        ),
        (&module(ECHO, "(memory 1)"), "multiple memories"),
        (
            &module(ECHO, r#"(func (export "describe"))"#),
            "its export `describe` is not `describe() -> (i64)`",
        ),
        (&module(ECHO, "").replace("(export \"memory\")", ""), "it exports no memory named `memory`"),
        (&module("(throw $e)", "(tag $e)"), "exceptions"),
        (&module("(nonsense)", ""), "cannot compile it: "),
        ("\0asm nonsense", "cannot compile it: "),
    ] {
        let said = refused(wat);
        assert!(said.starts_with("t: ") && said.contains(problem), "{said}");
    }
    let none = tool_within(&Limits { fuel: 0, ..limits() }, &module(ECHO, ""));
    assert_eq!(none.err().unwrap().to_string(), "limits.fuel: must be above 0");
}

const DESCRIBED: &str = r#"(func (export "describe") (result i64) (i64.const 549755813951))
    (data (i32.const 128) "{\"name\": \"echo\", \"description\": \"Says it again.\", \"schema\": {\"type\": \"object\"}}       ")"#;

#[test]
fn a_module_describes_itself() {
    let wat = module(ECHO, &DESCRIBED.replace("549755813951", &(128u64 << 32 | 80).to_string()));
    let tool = WasmTool::new(wat.as_bytes(), &Limits { output_bytes: 10, ..limits() }).unwrap();
    assert_eq!(
        (tool.name(), tool.description(), tool.schema()),
        ("echo", "Says it again.", json!({"type": "object"}))
    );
    for (packed, problem) in [
        (128u64 << 32 | 10, "`describe` gave no description: EOF"),
        (65536 << 32 | 1, "`describe` failed: Error: its result is at 65536..65537"),
        (128 << 32 | 80 | 1 << 31, "`describe` failed: Error: {"),
    ] {
        let wat = module(ECHO, &DESCRIBED.replace("549755813951", &packed.to_string()));
        let error = WasmTool::new(wat.as_bytes(), &limits()).err().unwrap().to_string();
        assert!(error.starts_with("the module: ") && error.contains(problem), "{error}");
    }
    let error = WasmTool::new(module(ECHO, "").as_bytes(), &limits()).err().unwrap().to_string();
    assert!(error.contains("it does not describe itself: export `describe`"), "{error}");
}

#[test]
fn a_file_is_described_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.wat");
    let open = || WasmTool::open(&path, &limits()).map(|t| t.name().to_owned()).map_err(|e| e.to_string());
    assert!(open().unwrap_err().contains("t.wat: "));
    std::fs::write(&path, module(ECHO, "")).unwrap();
    assert!(open().unwrap_err().contains("t.wat: it does not describe itself"));
    std::fs::write(dir.path().join("t.json"), r#"{"name": "beside", "description": "d", "parameters": {}}"#)
        .unwrap();
    assert_eq!(open().unwrap(), "beside");
    std::fs::write(dir.path().join("t.json"), "{").unwrap();
    assert!(open().unwrap_err().contains("t.json: the description cannot be read: EOF"));
    std::fs::write(dir.path().join("t.json"), r#"{"name": "a b", "description": "d", "schema": {}}"#)
        .unwrap();
    assert!(open().unwrap_err().starts_with("tool name \"a b\""));
}

#[test]
fn the_interface_withstands_anything() {
    // A linear congruential generator: the fuzzer's quick stand-in.
    let mut state = 1u64;
    let mut next = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        state >> 33
    };
    let about = br#"{"name": "a", "description": "", "schema": {"type": "object", "properties": {"a": {"minimum": 1e308,
        "items": {"enum": [1, null]}}}, "required": ["a"], "additionalProperties": false}}"#;
    exercise(about);
    for _ in 0..20_000 {
        let mut bytes = about.to_vec();
        if next() % 2 == 0 {
            let len = next() % 64;
            bytes = (0..len).map(|_| if next() % 3 == 0 { 0 } else { next() as u8 }).collect();
        }
        for _ in 0..next() % 4 {
            let at = next() as usize % (bytes.len() + 1);
            match bytes.get(at).copied() {
                Some(_) if next() % 3 == 0 => {
                    bytes.remove(at);
                }
                Some(byte) if next() % 2 == 0 => bytes.insert(next() as usize % at.max(1), byte),
                Some(_) => bytes[at] = next() as u8,
                None => bytes.push(next() as u8),
            }
        }
        exercise(&bytes);
    }
}
