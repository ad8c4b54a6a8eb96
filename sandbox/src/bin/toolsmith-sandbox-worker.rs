//! The worker processes of this crate's own tests, whose executable has a `main` of its own; and `probe NAME`, which confines
//! itself as a worker does, waits for a line, and then tries what a worker must not do; and `parent`, which has a worker that is
//! busy for ever; and `probe-zygote`, which confines itself as a zygote does and names each of several things that it can still do.

use std::process::exit;

use toolsmith_sandbox::{Isolation, Limits, Sandbox};

fn main() {
    toolsmith_sandbox::worker_main_if_asked();
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["probe", name] => probe(ATTEMPTS.iter().find(|(n, _)| n == name).expect("a known attempt").1),
        #[cfg(target_os = "linux")]
        ["probe-zygote"] => probe_zygote(),
        ["parent"] => parent(),
        _ => {
            eprintln!("toolsmith-sandbox-worker: started by a pool only");
            exit(2);
        }
    }
}

fn parent() {
    let python = Sandbox::builder().isolation(Isolation::Process).fuel(u64::MAX).build();
    let mut python = python.expect("the tests have prepared the image");
    println!("{}", python.process_id().expect("it has a process of its own"));
    python.run("while True: pass");
}

fn probe(attempt: Attempt) {
    let mut python = Sandbox::builder().build().expect("the tests have prepared the image");
    let mut status = python.run("2**100").error.is_some();
    toolsmith_sandbox::confine(&Limits::default()).expect("it can be confined");
    println!("confined");
    std::io::stdin().read_line(&mut String::new()).expect("a line");
    // What a call needs is still there: memory, a trap, a new instance after it.
    for source in [
        "2**100",
        "x = bytes(300 << 20)",
        "import os\nos.abort()",
        "import sympy\nsympy.factorint(2**64 + 1)",
    ] {
        status |= python.run(source).error.is_some() != source.contains("abort");
    }
    // SAFETY: system calls that the filter refuses; the arguments are valid where it would not.
    status |= unsafe { attempt() } < 0;
    exit(status.into());
}

#[cfg(target_os = "linux")]
fn probe_zygote() {
    toolsmith_sandbox::confine_zygote().expect("it can be confined");
    println!("confined");
    let denied =
        ["socket", "fork", "execve", "kill", "unlink", "map code", "make code", "ioctl", "open to write"];
    for (name, attempt) in ATTEMPTS.iter().filter(|(name, _)| denied.contains(name)) {
        // SAFETY: as in `probe`.
        if unsafe { attempt() } >= 0 {
            println!("{name}");
        }
    }
}

type Attempt = unsafe fn() -> i64;

/// What a worker might be made to do if every wall before were broken; `nothing` is the control.
const ATTEMPTS: &[(&str, Attempt)] = &[
    ("nothing", || 0),
    ("open", || unsafe { libc::open(c"/etc/passwd".as_ptr(), libc::O_RDONLY).into() }),
    ("open to write", || unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_WRONLY).into() }),
    ("socket", || unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0).into() }),
    ("fork", || unsafe { libc::fork().into() }),
    ("thread", || std::thread::Builder::new().spawn(|| ()).map_or(-1, |_| 0)),
    ("execve", || unsafe {
        libc::execve(c"/bin/true".as_ptr(), [std::ptr::null()].as_ptr(), std::ptr::null()).into()
    }),
    ("kill", || unsafe { libc::kill(libc::getppid(), 0).into() }),
    ("unlink", || unsafe { libc::unlink(c"/tmp/toolsmith-nothing".as_ptr()).into() }),
    ("map code", || map(libc::PROT_READ | libc::PROT_EXEC)),
    ("make code", || unsafe {
        let page = map(libc::PROT_READ | libc::PROT_WRITE) as *mut libc::c_void;
        libc::mprotect(page, 4096, libc::PROT_READ | libc::PROT_EXEC).into()
    }),
    ("write elsewhere", || unsafe { libc::write(3, c"x".as_ptr().cast(), 1) as i64 }),
    ("raise a limit", || unsafe {
        let limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CPU, &limit).into()
    }),
    ("ioctl", || unsafe { libc::ioctl(0, libc::FIONREAD as _, &mut 0).into() }),
    ("stat", || unsafe { -i64::from(libc::stat(c"/etc/passwd".as_ptr(), &mut std::mem::zeroed()) == 0) }),
];

fn map(protection: i32) -> i64 {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a fresh mapping.
    unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) as i64 }
}
