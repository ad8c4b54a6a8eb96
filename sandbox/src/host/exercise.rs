//! Arbitrary calls with arbitrary arguments, as a hostile program could make them: for the fuzzer and for a test.

use std::sync::Arc;

use arbitrary::{Result, Unstructured};

use super::calls::calls;
use super::{Archive, Errno, FIRST_FREE_FD, Fd, Guest, Host, LIB_FD, MAX_FD, REPORT, State};

const MEMORY: usize = 65536;
/// Bytes kept of each stream.
const LIMIT: usize = 100;
/// Where the guest's memory holds what calls take by address, so that they reach further than their first check.
const PATHS: u32 = 0x1000;
const BUFFERS: u32 = 0x2000;
const POLLS: u32 = 0x3000;
const PATH: u32 = 64;
const NAMES: [&str; 8] =
    ["python.zip", "./python.zip", "a/../python.zip", "..", "/python.zip", "", "nothing", "python.zip/x"];

/// Makes the calls that `data` describes on a host with 64 KiB of guest memory, one program after another.
///
/// # Panics
/// Where the host has a bug: by its own panic, by keeping more output or descriptors than it may, by a clock that runs
/// backwards, or by touching memory that it was not given.
pub fn exercise(data: &[u8]) {
    let mut memory = vec![0u8; MEMORY];
    plant(&mut memory);
    let archive: Vec<u8> = (0..1000u32).map(|i| (i % 251) as u8).collect();
    let mut host = Host::new(Archive { name: NAMES[0].into(), data: Arc::new(archive) });
    let snapshot = host.state.clone();
    host.begin(b"print(1)".to_vec(), LIMIT);
    let mut input = Unstructured::new(data);
    while !input.is_empty() {
        let before = host.state.clock;
        // Input that ends in the middle of a step ends the run.
        if step(&mut input, &mut host, &mut memory).is_err() {
            break;
        }
        assert!(host.state.clock >= before);
        check(&host, &snapshot);
    }
    for stream in [&host.out, &host.err] {
        let (text, cut) = stream.finish();
        assert!(cut > 0 || stream.total() <= LIMIT as u64);
        // A byte that is not UTF-8 becomes a character of three.
        assert!(text.len() <= 3 * LIMIT + 64);
    }
    host.state = snapshot.clone();
    host.begin(Vec::new(), LIMIT);
    assert_eq!((&host.state, host.out.total(), host.report.fields.len()), (&snapshot, 0, 0));
}

/// One step: a call, mostly; else the guest writes to its memory, or the next program begins.
fn step(input: &mut Unstructured, host: &mut Host, memory: &mut [u8]) -> Result<()> {
    match input.int_in_range(0..=15u8)? {
        0 => {
            let at = input.int_in_range(0..=MEMORY - 64)?;
            let bytes = input.bytes(input.len().min(usize::from(at as u8 % 64)))?;
            memory[at..at + bytes.len()].copy_from_slice(bytes);
        }
        1 => plant(memory),
        2 => {
            let len = input.int_in_range(0..=200)?;
            host.begin(vec![b'x'; len], input.int_in_range(0..=LIMIT)?);
        }
        _ => {
            let index = input.arbitrary::<u8>()?.into();
            let mut left = Ok(());
            let word = || {
                word(input).unwrap_or_else(|e| {
                    left = Err(e);
                    0
                })
            };
            let _ = dispatch(host, &mut Guest(memory), index, word);
            left?;
        }
    }
    Ok(())
}

/// Makes the call with number `index`, modulo how many there are, with arguments from `word`.
fn dispatch(
    host: &mut Host,
    guest: &mut Guest,
    index: usize,
    mut word: impl FnMut() -> u64,
) -> super::Result<()> {
    macro_rules! name {
        ($($name:ident($($arg:tt: $ty:ty),*) |$h:ident, $g:ident| $body:expr;)*) => { [$(stringify!($name)),*] };
    }
    let names = calls!(name);
    let chosen = names[index % names.len()];
    macro_rules! make {
        ($($name:ident($($arg:tt: $ty:ty),*) |$h:ident, $g:ident| $body:expr;)*) => {$(
            if chosen == stringify!($name) {
                $(let $arg = word() as $ty;)*
                let ($h, $g) = (host, guest);
                return $body;
            }
        )*};
    }
    calls!(make);
    unreachable!("the name is one of the table's")
}

/// An argument: a small number, the address of something planted, one near the end of memory, or anything.
fn word(input: &mut Unstructured) -> Result<u64> {
    let small = |input: &mut Unstructured, most: u32| input.int_in_range(0..=most).map(u64::from);
    Ok(match input.int_in_range(0..=9u8)? {
        0..=2 => small(input, 8)?,
        3 => small(input, 70)?,
        4 => u64::from(PATHS) + u64::from(PATH) * small(input, NAMES.len() as u32 - 1)?,
        5 => u64::from(BUFFERS) + 8 * small(input, 12)?,
        6 => u64::from(POLLS) + 48 * small(input, 4)?,
        7 => MEMORY as u64 - small(input, 300)?,
        8 => input.arbitrary::<u32>()?.into(),
        _ => input.arbitrary()?,
    })
}

/// Writes paths, lists of buffers and subscriptions to where [`word`] finds them.
fn plant(memory: &mut [u8]) {
    let g = &mut Guest(memory);
    for (i, name) in (0..).zip(NAMES) {
        g.put(PATHS + i * PATH, name.as_bytes()).expect("inside memory");
    }
    let end = MEMORY as u32;
    let buffers = [(0x4000, 16), (0x4100, 0), (0x4200, 2000), (end - 8, 8), (0x4000, 1), (end, 0), (0, end)];
    let hostile = [(end - 4, 8), (u32::MAX, 1), (0, u32::MAX), (u32::MAX, u32::MAX)];
    for (i, (at, len)) in (0..).zip(buffers.into_iter().chain(hostile)) {
        g.put_u32(BUFFERS + 8 * i, at).expect("inside memory");
        g.put_u32(BUFFERS + 8 * i + 4, len).expect("inside memory");
    }
    for (i, (kind, clock, absolute, time)) in (0..).zip([
        (0u8, 0u32, 0u8, 5u64),
        (0, 1, 1, 1 << 62),
        (0, 0, 1, u64::MAX),
        (1, 0, 0, 0),
        (2, 0, 0, 0),
    ]) {
        let mut sub = [0u8; 48];
        (sub[0], sub[8], sub[40]) = (i as u8, kind, absolute);
        sub[16..20].copy_from_slice(&clock.to_le_bytes());
        sub[24..32].copy_from_slice(&time.to_le_bytes());
        g.put(POLLS + 48 * i, &sub).expect("inside memory");
    }
}

/// What holds after every step of a host that began with `first`.
fn check(host: &Host, first: &State) {
    let state = &host.state;
    assert!(state.random != 0 && host.stdin_pos <= host.stdin.len());
    assert!(state.fds.len() <= MAX_FD as usize && state.fds.keys().all(|fd| *fd < MAX_FD), "{state:?}");
    for fd in [REPORT, LIB_FD] {
        assert_eq!(state.fds.get(&fd), first.fds.get(&fd));
    }
    for (fd, kind) in &state.fds {
        match *fd < FIRST_FREE_FD {
            true => assert_eq!(first.fds.get(fd), Some(kind)),
            false => assert!(matches!(kind, Fd::Archive { .. } | Fd::Lib), "{state:?}"),
        }
    }
    let fields = host.report.fields.values();
    assert!(fields.len() <= 6);
    assert!([&host.out, &host.err].into_iter().chain(fields).all(|c| c.kept() <= 2 * LIMIT));
}

#[cfg(test)]
mod tests {
    #[test]
    fn arbitrary_calls_do_no_harm() {
        let mut x = 1u64;
        for len in (0..6000).step_by(3) {
            let mut data = Vec::with_capacity(len);
            for _ in 0..len {
                x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                data.push((x >> 56) as u8);
            }
            super::exercise(&data);
        }
    }
}
