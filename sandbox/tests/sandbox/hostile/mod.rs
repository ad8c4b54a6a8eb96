//! Programs that mean harm, each with the ending it must have, and the next call as if nothing had happened.
//!
//! They stand in the `.py` files here: `# ---- what it tries`, then the ending, then the program. The ending is
//! `# LIMIT | ERROR | line N | OUTPUT`, of which the last two may be missing; `-` is no error. `# fuel` is a program that is
//! cut off before it printed anything; `line ?` may be any line, since memory ends where it ends; `# any` one that may end as it likes, the same way each time.

use toolsmith_sandbox::{Limit, Limits, Outcome, Sandbox, Session};

use crate::{sandbox, timeless};

pub struct Hostile {
    /// The file and what the program tries.
    pub name: String,
    ending: &'static str,
    pub source: &'static str,
}

const FILES: [(&str, &str); 6] = [
    ("loops", include_str!("loops.py")),
    ("depth", include_str!("depth.py")),
    ("memory", include_str!("memory.py")),
    ("crashes", include_str!("crashes.py")),
    ("report", include_str!("report.py")),
    ("escapes", include_str!("escapes.py")),
];

/// The programs of all the files.
pub fn programs() -> Vec<Hostile> {
    let parse = |(file, text): &(&'static str, &'static str)| {
        let (file, text) = (*file, *text);
        text.split("# ---- ").skip(1).map(move |part| {
            let (name, rest) = part.split_once('\n').expect("an ending");
            let (ending, source) = rest.split_once('\n').expect("a program");
            let ending = ending.strip_prefix("# ").expect("an ending");
            Hostile { name: format!("{file}: {name}"), ending, source }
        })
    };
    FILES.iter().flat_map(parse).collect()
}

/// How a call ended, as the files write it.
fn ending(outcome: &Outcome, limits: &Limits) -> String {
    let limit = outcome.limit_hit.map_or("none".into(), |l| format!("{l:?}").to_lowercase());
    let escape = |text: &str| text.replace('\\', "\\\\").replace('\n', "\\n");
    let mut line = match &outcome.error {
        None => format!("{limit} | -"),
        Some(e) if e.message.is_empty() => format!("{limit} | {}", e.kind),
        Some(e) => format!("{limit} | {}: {}", e.kind, escape(&e.message)),
    };
    if let Some(n) = outcome.error.as_ref().and_then(|e| e.line) {
        line += &format!(" | line {n}");
    }
    let said =
        if outcome.stdout.is_empty() { outcome.value.as_deref().unwrap_or("") } else { &outcome.stdout };
    if !said.is_empty() {
        line += &format!(" | {}", escape(said));
    }
    let cut_off = format!("TimeoutError: the program ran too long (more than {} steps)", limits.fuel);
    match line == format!("fuel | {cut_off}") {
        true => "fuel".into(),
        false => line,
    }
}

fn without_line(ending: &str) -> &str {
    ending.rsplit_once(" | line ").map_or(ending, |(rest, _)| rest)
}

const PROBE: &str = "import sys, gc, os, time, random\n\
    print(len(sys.modules), gc.get_count(), sys.getrecursionlimit(), os.urandom(4), time.time(), random.random())";

fn end_as_they_must(file: &str, fuel: u64) {
    let limits = Limits { fuel, memory_mb: 256, ..Limits::default() };
    let mut s = sandbox(&limits);
    let clean = timeless(s.run(PROBE));
    let digest = s.digest().unwrap();
    assert!(clean.ok() && clean.limit_hit.is_none(), "{clean:?}");
    let mut wrong = Vec::new();
    let run = |s: &mut Sandbox, p: &Hostile| timeless(s.run(p.source));
    for p in programs().iter().filter(|p| p.name.starts_with(file)) {
        let o = run(&mut s, p);
        let is = ending(&o, &limits);
        if p.ending == "any" {
            assert_eq!(run(&mut s, p), o, "{}", p.name);
        } else if is != p.ending
            && !(p.ending.ends_with("line ?") && without_line(&is) == without_line(p.ending))
        {
            wrong.push(format!("{}\n  should {}\n  is     {is}", p.name, p.ending));
        }
        assert!(o.feedback().len() < 3 * limits.output_bytes && o.fuel <= fuel, "{}: {o:?}", p.name);
        assert_eq!(timeless(s.run(PROBE)), clean, "after {}", p.name);
    }
    assert_eq!(s.digest().unwrap(), digest);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn loops_end() {
    end_as_they_must("loops", 30_000_000);
}

#[test]
fn depth_ends() {
    end_as_they_must("depth", 100_000_000);
}

#[test]
fn memory_ends() {
    end_as_they_must("memory", 100_000_000);
}

#[test]
fn crashes_end_their_own_call() {
    end_as_they_must("crashes", 100_000_000);
}

#[test]
fn reports_are_the_drivers() {
    end_as_they_must("report", 100_000_000);
}

#[test]
fn nothing_gets_out() {
    end_as_they_must("escapes", 100_000_000);
}

/// Streams of any size, in pieces of any size, are kept small and counted exactly.
#[test]
fn floods_are_counted() {
    let limits = Limits { fuel: 200_000_000, memory_mb: 512, output_bytes: 1000, ..Limits::default() };
    let mut s = sandbox(&limits);
    let clean = timeless(s.run(PROBE));
    let mb = 1 << 20;
    for (source, written) in [
        ("print('x' * (1 << 20))", mb + 1),
        ("for _ in range(100): print('x' * (1 << 20))", 100 * (mb + 1)),
        ("import os\nos.write(1, b'x' * (100 << 20))", 100 * mb),
        ("import sys\nfor _ in range(200000): sys.stdout.write('x')", 200_000),
        ("import os\nfor _ in range(20000): os.write(1, b'x')", 20_000),
        ("import sys\nfor _ in range(100): sys.stderr.write('x' * (1 << 20))", 100 * mb),
        (
            "import warnings\nfor i in range(1000): warnings.warn('x' * (1000 - len(str(i))) + str(i))",
            1_025_000,
        ),
        ("'x' * (1 << 20)", mb + 2),
        ("class A:\n    def __repr__(self): return 'x' * (100 << 20)\nA()", 100 * mb),
        ("raise type('E' * (1 << 20), (Exception,), {})", 2 * mb),
    ] {
        let o = timeless(s.run(source));
        let kept: usize = [&o.stdout, &o.stderr].iter().map(|s| s.len()).sum::<usize>()
            + o.value.as_ref().map_or(0, String::len)
            + o.error.as_ref().map_or(0, |e| e.kind.len() + e.traceback.len());
        let marks = if o.error.is_some() { 2 } else { 1 };
        assert_eq!(o.limit_hit, Some(Limit::Output), "{source}: {o:?}");
        assert_eq!(o.truncated, written - 1000 * marks, "{source}");
        assert!(kept > 1000 && kept <= (1000 + 50) * marks, "{source}: {kept}");
        assert_eq!(timeless(s.run(PROBE)), clean, "after {source}");
    }
    // A message of most of the memory there is: it is reported without a copy.
    let o = s.run("raise ValueError('x' * (300 << 20))");
    assert_eq!((o.limit_hit, o.truncated), (Some(Limit::Output), 2 * ((300 << 20) - 1000) + 12), "{o:?}");
    // A flood that does not end is cut off by fuel, and its beginning is there.
    let o = s.run("while True: print('x' * 1000)");
    assert_eq!(o.limit_hit, Some(Limit::Fuel));
    assert!(o.stdout.starts_with("xxx") && o.truncated > 1 << 20);
    assert_eq!(timeless(s.run(PROBE)), clean);
}

/// Bytes that claim to be a session may put anything into the interpreter's memory, registers and host. What runs then ends
/// somehow, and touches no other call.
#[test]
fn forged_sessions_stay_inside() {
    let limits = Limits { fuel: 5_000_000, memory_mb: 192, ..Limits::default() };
    let mut s = sandbox(&limits);
    let clean = timeless(s.run(PROBE));
    let digest = s.digest().unwrap();
    let mut session = s.session();
    s.run_in(&mut session, "x = [1, 2]\nf = open('/usr/local/lib/python315.zip', 'rb')");
    let real = session.to_bytes().unwrap();
    // Blocks, lengths and registers, then the numbers of pages, then their bytes.
    let head = 12 + u32::from_le_bytes(real[4..8].try_into().unwrap()) as usize;
    let pages = 4 * u32::from_le_bytes(real[8..12].try_into().unwrap()) as usize;
    let (mut x, mut resumed, mut damaged) = (7u64, 0, 0);
    let mut below = |n: usize| {
        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (x >> 33) as usize % n
    };
    for round in 0..400 {
        let mut bytes = real.clone();
        let part = [0..head, head..head + pages, head + pages..bytes.len()][round % 3].clone();
        for _ in 0..[1, 3, 200][round / 3 % 3] {
            let at = part.start + below(part.len());
            bytes[at] = match round % 3 {
                // Digits stay digits, so that the registers can be read.
                0 if bytes[at].is_ascii_digit() => b'0' + below(10) as u8,
                0 => bytes[at],
                _ => below(256) as u8,
            };
        }
        let Ok(mut forged) = Session::from_bytes(&bytes) else { continue };
        let o = s.run_in(&mut forged, "print(x, len(f.read()), sum(range(100)))");
        resumed += 1;
        damaged += usize::from(!o.ok());
        assert_eq!(timeless(s.run(PROBE)), clean, "round {round}: {o:?}");
    }
    assert_eq!(s.digest().unwrap(), digest);
    assert!(resumed > 100 && damaged > 10, "{resumed} resumed, {damaged} damaged");
}
