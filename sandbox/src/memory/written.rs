//! Which pages of a private file mapping hold copies of their own: the kernel knows, because a first write gave it one.
//!
//! Linux 6.7 answers in one call (`PAGEMAP_SCAN`); before that the entries of `/proc/self/pagemap` are read. Where neither is
//! to be had, the answer is None and a reset drops every page.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

const PAGEMAP: &str = "/proc/self/pagemap";
static FILE: OnceLock<Option<File>> = OnceLock::new();

/// This process's page map. Opened once, since a confined process cannot.
fn pagemap() -> Option<&'static File> {
    FILE.get_or_init(|| File::open(PAGEMAP).ok()).as_ref()
}

/// In a process that was forked: its own page map in the place of the one it inherited, which is its maker's. Gives the
/// descriptor, if there is one.
#[cfg(target_os = "linux")]
pub(crate) fn reopen_pagemap() -> io::Result<Option<std::os::fd::RawFd>> {
    let Some(inherited) = FILE.get().and_then(Option::as_ref) else { return Ok(None) };
    let mine = File::open(PAGEMAP)?;
    // SAFETY: both are open; what the old number stands for from now on is as good a page map.
    match unsafe { libc::dup3(mine.as_raw_fd(), inherited.as_raw_fd(), libc::O_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        at => Ok(Some(at)),
    }
}

/// Bytes of a page of the host.
pub(crate) fn page_size() -> usize {
    static SIZE: OnceLock<usize> = OnceLock::new();
    // SAFETY: asks for a constant.
    *SIZE.get_or_init(|| unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize)
}

/// The argument of `PAGEMAP_SCAN` (linux/fs.h).
#[repr(C)]
#[derive(Default)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// `_IOWR('f', 16, struct pm_scan_arg)`.
pub(crate) const PAGEMAP_SCAN: u64 = 0xC060_6610;
const IS_FILE: u64 = 1 << 2;
const IS_PRESENT: u64 = 1 << 3;
const IS_SWAPPED: u64 = 1 << 4;

/// The pages of `[base, base + len)` that are private copies, as ascending runs of page numbers from `base`; appended to
/// `runs`. False where the kernel does not tell.
pub(crate) fn private_pages(base: usize, len: usize, runs: &mut Vec<Range<u32>>) -> bool {
    static NO_SCAN: AtomicBool = AtomicBool::new(false);
    let Some(file) = pagemap() else { return false };
    if !NO_SCAN.load(Relaxed) {
        match scan(file, base, len, runs) {
            Ok(()) => return true,
            Err(_) => NO_SCAN.store(true, Relaxed),
        }
    }
    // What a scan that failed halfway has appended is found again.
    runs.clear();
    read_entries(file, base, len, runs).is_ok()
}

fn scan(file: &File, base: usize, len: usize, runs: &mut Vec<Range<u32>>) -> io::Result<()> {
    let page = page_size();
    let mut regions = [Region::default(); 256];
    let end = (base + len) as u64;
    let mut arg = ScanArg {
        size: size_of::<ScanArg>() as u64,
        start: base as u64,
        end,
        vec: regions.as_mut_ptr() as u64,
        vec_len: regions.len() as u64,
        category_inverted: IS_FILE,
        category_mask: IS_FILE,
        category_anyof_mask: IS_PRESENT | IS_SWAPPED,
        // Only whether a page matches is of interest, so that neighbours become one run.
        return_mask: IS_FILE,
        ..ScanArg::default()
    };
    while arg.start < end {
        arg.vec = regions.as_mut_ptr() as u64;
        // SAFETY: the argument and its vector are alive and of the lengths they state.
        let found = unsafe { libc::ioctl(file.as_raw_fd(), PAGEMAP_SCAN as _, &mut arg) };
        if found < 0 {
            let e = io::Error::last_os_error();
            if e.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(e);
        }
        for region in &regions[..found as usize] {
            push(runs, |at| ((at - base as u64) / page as u64) as u32, region.start..region.end);
        }
        arg.start = arg.walk_end;
    }
    Ok(())
}

fn push(runs: &mut Vec<Range<u32>>, number: impl Fn(u64) -> u32, region: Range<u64>) {
    let (start, end) = (number(region.start), number(region.end));
    match runs.last_mut() {
        Some(last) if last.end == start => last.end = end,
        _ => runs.push(start..end),
    }
}

fn read_entries(file: &File, base: usize, len: usize, runs: &mut Vec<Range<u32>>) -> io::Result<()> {
    let page = page_size();
    let (first, pages) = (base / page, len / page);
    let mut bytes = [0u8; 8 * 512];
    for at in (0..pages).step_by(512) {
        let bytes = &mut bytes[..8 * (pages - at).min(512)];
        file.read_exact_at(bytes, ((first + at) * 8) as u64)?;
        for (i, entry) in bytes.chunks_exact(8).enumerate() {
            let entry = u64::from_le_bytes(entry.try_into().expect("eight bytes"));
            let (there, of_file) = (entry >> 62 != 0, entry >> 61 & 1 != 0);
            if there && !of_file {
                let n = (at + i) as u64;
                push(runs, |n| n as u32, n..n + 1);
            }
        }
    }
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// Both ways find exactly the pages written, on a mapping whose other pages were read, or never touched.
    #[test]
    fn written_pages_are_found() {
        let page = page_size();
        let file = tempfile::tempfile().unwrap();
        let pages = 3000;
        file.set_len((pages * page) as u64).unwrap();
        let mut map = unsafe { memmap2::MmapOptions::new().map_copy(&file).unwrap() };
        let written: Vec<usize> = (0..pages).filter(|n| n % 7 == 3 || (100..120).contains(n)).collect();
        let sum: u32 = (0..1000).map(|n| u32::from(map[n * page])).sum();
        assert_eq!(sum, 0);
        written.iter().for_each(|n| map[n * page + 5] = 1);
        let base = map.as_ptr() as usize;
        let flat = |runs: Vec<Range<u32>>| runs.into_iter().flatten().map(|n| n as usize).collect::<Vec<_>>();
        let mut runs = Vec::new();
        assert!(private_pages(base, pages * page, &mut runs));
        assert_eq!(flat(runs), written);
        let mut runs = Vec::new();
        read_entries(pagemap().unwrap(), base, pages * page, &mut runs).unwrap();
        assert_eq!(flat(runs), written);
    }
}
