//! One reserved range of addresses: a private view of the snapshot, growing to a cap, and brought back to the snapshot.
//!
//! A page's first write costs a fault and a copy, about a microsecond; putting the old bytes back into a page that has its
//! copy already costs a tenth of that. So a reset leaves the pages that calls usually write resident and restores them in
//! place, and drops the others ([`Resident`]).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use memmap2::Mmap;
use wasmer_vm::VMMemoryDefinition;

use super::written::{page_size, private_pages};
use super::{PAGE, Patch, Plan};

/// Address space of one memory: what a 32-bit index plus a 32-bit offset can reach, so compiled code needs no bounds
/// checks (`MemoryStyle::Static`).
const RESERVE: usize = (8 << 30) + PAGE;
/// Bytes of private pages that may stay between calls.
const RESIDENT: usize = 6 << 20;
/// Resets that a page stays without having to be restored.
const LIFE: u8 = 32;

/// A snapshot's bytes: a file for private views, and one shared view to restore pages from.
#[derive(Debug)]
pub(crate) struct Original {
    file: File,
    bytes: Mmap,
}

impl Original {
    /// The snapshot in `file`: whole wasm pages.
    pub fn new(file: File) -> io::Result<Original> {
        // SAFETY: the cache's files are replaced by rename, never written in place.
        let bytes = unsafe { Mmap::map(&file)? };
        Ok(Original { file, bytes })
    }

    /// Its length in wasm pages.
    pub fn pages(&self) -> usize {
        self.bytes.len() / PAGE
    }
}

/// Which pages a reset left resident, and for how many more resets. Of no effect on what a program sees.
#[derive(Debug, Default)]
pub(crate) struct Resident {
    life: Vec<u8>,
    private: Vec<Range<u32>>,
    drop: Vec<Range<u32>>,
}

/// One reserved range of addresses and what of it is in use.
#[derive(Debug)]
pub(crate) struct Slot {
    base: NonNull<u8>,
    /// Where compiled code reads base and length; in the instance, which outlives every use of the slot but its drop.
    definition: NonNull<VMMemoryDefinition>,
    pages: AtomicUsize,
    plan: Plan,
    peak: AtomicUsize,
    denied: AtomicUsize,
}

// SAFETY: a slot is reached from its store (in `CowMemory`) and from the `Vm` that owns that store; a `Vm` is used by one
// thread at a time, and the instance holding `definition` is dropped after the last call of any method but `drop`.
unsafe impl Send for Slot {}
unsafe impl Sync for Slot {}

impl Slot {
    pub fn new(least: usize, plan: Plan, definition: NonNull<VMMemoryDefinition>) -> io::Result<Slot> {
        let pages = plan.snapshot.as_ref().map_or(least, |o| o.pages());
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh mapping at an address the kernel chooses.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), RESERVE, libc::PROT_NONE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let slot = Slot {
            base: NonNull::new(base.cast()).expect("mmap gives no null"),
            definition,
            pages: AtomicUsize::new(pages),
            peak: AtomicUsize::new(pages),
            denied: AtomicUsize::new(0),
            plan: Plan { max_pages: plan.max_pages.max(pages), ..plan },
        };
        if let Some(original) = &slot.plan.snapshot {
            let (prot, flags) = (
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
            );
            // SAFETY: replaces part of the range reserved above, which nothing uses yet. The file is this process's
            // own, checked against its digest and never written again (a new one replaces it by rename).
            let at = unsafe { libc::mmap(base, pages * PAGE, prot, flags, original.file.as_raw_fd(), 0) };
            if at == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
        } else {
            slot.protect(0, pages, libc::PROT_READ | libc::PROT_WRITE)?;
        }
        slot.set_pages(pages);
        Ok(slot)
    }

    fn protect(&self, from: usize, pages: usize, prot: i32) -> io::Result<()> {
        // SAFETY: `from + pages` is at most 65536 pages (wasm32), inside the reserved range.
        let r = unsafe {
            let at = self.base.as_ptr().add(from * PAGE);
            libc::mprotect(at.cast(), pages * PAGE, prot)
        };
        if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Drops private pages: the file's bytes, or zeros, show again.
    fn forget(&self, from: usize, len: usize) -> io::Result<()> {
        // SAFETY: the callers name whole pages in the reserved range, and no compiled code of this store runs now.
        let r = unsafe { libc::madvise(self.base.as_ptr().add(from).cast(), len, libc::MADV_DONTNEED) };
        if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn set_pages(&self, pages: usize) {
        self.pages.store(pages, Relaxed);
        // SAFETY: see `definition`; no compiled code of this store runs now.
        unsafe {
            (*self.definition.as_ptr()).base = self.base.as_ptr();
            (*self.definition.as_ptr()).current_length = pages * PAGE;
        }
    }

    pub fn definition(&self) -> NonNull<VMMemoryDefinition> {
        self.definition
    }

    /// Pages in use.
    pub fn pages(&self) -> usize {
        self.pages.load(Relaxed)
    }

    /// The most pages in use since the last reset.
    pub fn peak(&self) -> usize {
        self.peak.load(Relaxed)
    }

    /// Requests for more memory refused since the last reset.
    pub fn denied(&self) -> usize {
        self.denied.load(Relaxed)
    }

    /// The memory in use. Only between calls.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: that much is mapped readable, and no compiled code of this store runs now.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.pages() * PAGE) }
    }

    /// The memory in use, to be written. Only between calls.
    #[expect(
        clippy::mut_from_ref,
        reason = "guest memory has no Rust owner; the callers are this file and `Vm`"
    )]
    pub fn bytes_mut(&self) -> &mut [u8] {
        // SAFETY: as `bytes`; the one `Vm` that owns the slot lets nothing else read it meanwhile.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.pages() * PAGE) }
    }

    /// Grows by `delta` pages; gives the length before, or None beyond the cap.
    pub fn grow(&self, delta: usize) -> Option<usize> {
        let now = self.pages();
        let then = now.checked_add(delta).filter(|n| *n <= self.plan.max_pages);
        let grown = then.filter(|_| self.protect(now, delta, libc::PROT_READ | libc::PROT_WRITE).is_ok());
        let Some(then) = grown else {
            self.denied.fetch_add(1, Relaxed);
            return None;
        };
        self.set_pages(then);
        self.peak.fetch_max(then, Relaxed);
        Some(now)
    }

    /// Makes the memory equal to the snapshot again. Only between calls.
    pub fn reset(&self, resident: &mut Resident) -> io::Result<()> {
        let original = self.plan.snapshot.as_ref().expect("only a snapshot's memory is reset");
        let (kept, now) = (original.pages(), self.pages());
        if now > kept {
            self.forget(kept * PAGE, (now - kept) * PAGE)?;
            self.protect(kept, now - kept, libc::PROT_NONE)?;
        }
        self.set_pages(kept);
        self.peak.store(kept, Relaxed);
        self.denied.store(0, Relaxed);
        resident.private.clear();
        if !private_pages(self.base.as_ptr() as usize, kept * PAGE, &mut resident.private) {
            return self.forget(0, kept * PAGE);
        }
        self.restore(&original.bytes, resident)
    }

    /// Where memory differs from the snapshot, and beyond its end from zeros. Only between calls.
    pub fn delta(&self, resident: &mut Resident) -> Patch {
        let original = self.plan.snapshot.as_ref().expect("only a snapshot's memory is parked");
        let page = page_size();
        let mine = self.bytes();
        let zeros = vec![0; page];
        resident.private.clear();
        if !private_pages(self.base.as_ptr() as usize, mine.len(), &mut resident.private) {
            resident.private.push(0..(mine.len() / page) as u32);
        }
        let mut patch = Patch::default();
        for n in resident.private.iter().cloned().flatten() {
            let at = n as usize * page..(n as usize + 1) * page;
            patch.push(n, &mine[at.clone()], original.bytes.get(at).unwrap_or(&zeros));
        }
        patch.shrink();
        patch
    }

    /// Makes a memory that is as its snapshot one of `length` wasm pages with `patch` over it. False where that is more than the
    /// cap, or the patch does not fit.
    pub fn apply(&self, length: usize, patch: &Patch) -> bool {
        let grown = length.checked_sub(self.pages()).is_some_and(|more| self.grow(more).is_some());
        grown && patch.apply(self.bytes_mut(), page_size())
    }

    fn restore(&self, original: &[u8], resident: &mut Resident) -> io::Result<()> {
        let page = page_size();
        let Resident { life, private, drop } = resident;
        life.resize(original.len() / page, 0);
        drop.clear();
        let old = private.iter().cloned().flatten().filter(|n| life[*n as usize] > 0).count();
        let mut room = (RESIDENT / page).saturating_sub(old);
        let mine = self.bytes_mut();
        for n in private.iter().cloned().flatten() {
            let at = n as usize * page..(n as usize + 1) * page;
            let life = &mut life[n as usize];
            if *life == 0 {
                if room > 0 {
                    (room, *life) = (room - 1, LIFE);
                }
            } else {
                *life -= 1;
            }
            if *life == 0 {
                match drop.last_mut() {
                    Some(last) if last.end == n => last.end = n + 1,
                    _ => drop.push(n..n + 1),
                }
            } else if mine[at.clone()] != original[at.clone()] {
                mine[at.clone()].copy_from_slice(&original[at]);
                *life = LIFE;
            }
        }
        for run in drop {
            self.forget(run.start as usize * page, run.len() * page)?;
        }
        Ok(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // SAFETY: the range mapped in `new`; the last owner is gone.
        unsafe { libc::munmap(self.base.as_ptr().cast(), RESERVE) };
    }
}
