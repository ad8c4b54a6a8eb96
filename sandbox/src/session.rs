//! Interpreters that remember: what a program left, parked as its difference from the snapshot.
//!
//! A [`Session`] is plain data. It holds no interpreter, no address space and no descriptor, so thousands may wait at once,
//! move between workers and processes, be cloned (a clone is a fork of the trajectory) and be put on disk ([`Spill`]).
//! Absent: a session's state outlives neither its image nor a block that was cut off, which leaves it as it was before.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

use crate::memory::Patch;
use crate::vm::Registers;

/// A trajectory's own interpreter between two of its blocks. A new one starts from the snapshot.
///
/// [`Sandbox::run_in`](crate::Sandbox::run_in) goes on with it. Variables, imports and everything else in the interpreter's
/// memory stay; replaced builtins and attributes of `sys` do not, and `atexit` handlers run at the end of their block.
#[derive(Clone, Debug, Default)]
pub struct Session {
    blocks: u32,
    parked: Option<Parked>,
}

#[derive(Clone, Debug)]
enum Parked {
    Here(Arc<Delta>),
    Spilled(Arc<Extent>),
}

/// An interpreter's difference from a snapshot.
#[derive(Debug, PartialEq)]
pub(crate) struct Delta {
    /// Which image it belongs to, and where globals and host stand.
    pub head: Head,
    pub patch: Patch,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub image: String,
    /// Bytes of a page of [`Delta::patch`].
    pub page: u32,
    pub registers: Registers,
}

/// Bytes of a parked session that are not page contents, about.
const OVERHEAD: usize = size_of::<Delta>() + 512;

impl Session {
    /// Blocks that have been run in it.
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Bytes of memory that it holds: what of the pages it wrote differs from the snapshot, twelve a page, and a few hundred.
    /// Clones share them.
    pub fn bytes(&self) -> usize {
        match &self.parked {
            None => 0,
            Some(Parked::Here(delta)) => delta.patch.size() + OVERHEAD,
            Some(Parked::Spilled(_)) => size_of::<Extent>(),
        }
    }

    /// Moves its pages to disk. They come back by themselves at its next block.
    ///
    /// # Errors
    /// If they cannot be written; the session is then as before.
    pub fn spill(&mut self, to: &Spill) -> io::Result<()> {
        if let Some(Parked::Here(delta)) = &self.parked {
            self.parked = Some(Parked::Spilled(Arc::new(to.write(&delta.to_bytes())?)));
        }
        Ok(())
    }

    /// All of it as bytes, for another process or a file.
    ///
    /// # Errors
    /// If it was spilled and cannot be read.
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let mut bytes = self.blocks.to_le_bytes().to_vec();
        if let Some(delta) = self.delta()? {
            bytes.extend(delta.to_bytes());
        }
        Ok(bytes)
    }

    /// What [`Session::to_bytes`] gave. Whatever the bytes are, a block run in it stays inside the sandbox.
    ///
    /// # Errors
    /// `InvalidData` for anything that is not a session.
    pub fn from_bytes(bytes: &[u8]) -> io::Result<Session> {
        let (blocks, delta) = bytes.split_first_chunk().ok_or_else(malformed)?;
        let parked = match delta {
            [] => None,
            delta => Some(Parked::Here(Arc::new(Delta::from_bytes(delta)?))),
        };
        Ok(Session { blocks: u32::from_le_bytes(*blocks), parked })
    }

    /// What to resume, if a block was run.
    pub(crate) fn delta(&self) -> io::Result<Option<Arc<Delta>>> {
        Ok(match &self.parked {
            None => None,
            Some(Parked::Here(delta)) => Some(delta.clone()),
            Some(Parked::Spilled(extent)) => Some(Arc::new(Delta::from_bytes(&extent.read()?)?)),
        })
    }

    /// A block was run; `delta` is where it ended, or None where it was cut off.
    pub(crate) fn advance(&mut self, delta: Option<Delta>) {
        self.blocks = self.blocks.saturating_add(1);
        if let Some(delta) = delta {
            self.parked = Some(Parked::Here(Arc::new(delta)));
        }
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "these bytes are no session")
}

impl Delta {
    fn to_bytes(&self) -> Vec<u8> {
        let head = serde_json::to_vec(&self.head).expect("plain data");
        let Patch { pages, parts, bytes } = &self.patch;
        let mut out = Vec::with_capacity(8 + head.len() + pages.len() * 12 + bytes.len());
        out.extend((head.len() as u32).to_le_bytes());
        out.extend((pages.len() as u32).to_le_bytes());
        out.extend(head);
        pages.iter().for_each(|n| out.extend(n.to_le_bytes()));
        parts.iter().for_each(|p| out.extend(p.to_le_bytes()));
        out.extend_from_slice(bytes);
        out
    }

    fn from_bytes(bytes: &[u8]) -> io::Result<Delta> {
        let (head, rest) = bytes.split_first_chunk().ok_or_else(malformed)?;
        let (pages, rest) = rest.split_first_chunk().ok_or_else(malformed)?;
        let (head, pages) = (u32::from_le_bytes(*head) as usize, u32::from_le_bytes(*pages) as usize);
        let (head, rest) = rest.split_at_checked(head).ok_or_else(malformed)?;
        let head: Head = serde_json::from_slice(head).map_err(|_| malformed())?;
        let numbers = pages.checked_mul(4).and_then(|len| rest.split_at_checked(len));
        let (numbers, rest) = numbers.ok_or_else(malformed)?;
        let parts = pages.checked_mul(8).and_then(|len| rest.split_at_checked(len));
        let (parts, bytes) = parts.ok_or_else(malformed)?;
        let patch = Patch {
            pages: numbers.as_chunks().0.iter().map(|n| u32::from_le_bytes(*n)).collect(),
            parts: parts.as_chunks().0.iter().map(|p| u64::from_le_bytes(*p)).collect(),
            bytes: bytes.to_vec(),
        };
        match patch.is_sound(head.page as usize) {
            true => Ok(Delta { head, patch }),
            false => Err(malformed()),
        }
    }
}

/// A file without a name that parked sessions are put into. It needs no cleaning up, whatever ends the process.
#[derive(Clone, Debug)]
pub struct Spill {
    file: Arc<File>,
    end: Arc<AtomicU64>,
}

impl Spill {
    /// A new one on the file system of `dir`.
    ///
    /// # Errors
    /// If no file can be made there.
    pub fn new(dir: &Path) -> io::Result<Spill> {
        Ok(Spill { file: Arc::new(tempfile::tempfile_in(dir)?), end: Arc::default() })
    }

    /// Bytes on disk.
    ///
    /// # Errors
    /// If the file cannot be asked.
    pub fn bytes(&self) -> io::Result<u64> {
        use std::os::unix::fs::MetadataExt;
        Ok(self.file.metadata()?.blocks() * 512)
    }

    /// Space is taken at the end and given back as holes, so what is there never moves.
    fn write(&self, bytes: &[u8]) -> io::Result<Extent> {
        let len = bytes.len() as u64;
        let at = self.end.fetch_add(len.next_multiple_of(BLOCK), Relaxed);
        let extent = Extent { file: self.file.clone(), at, len };
        self.file.write_all_at(bytes, at)?;
        Ok(extent)
    }
}

/// What holes are made of on every common file system.
const BLOCK: u64 = 4096;

/// A place in a [`Spill`], given back when dropped.
#[derive(Debug)]
struct Extent {
    file: Arc<File>,
    at: u64,
    len: u64,
}

impl Extent {
    fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.len as usize];
        self.file.read_exact_at(&mut bytes, self.at)?;
        Ok(bytes)
    }
}

impl Drop for Extent {
    fn drop(&mut self) {
        #[cfg(target_os = "linux")]
        // SAFETY: a call on a descriptor this value shares; only its own extent is freed. Where the file system has no
        // holes, the space stays until the file goes.
        unsafe {
            use std::os::fd::AsRawFd;
            let how = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            let len = self.len.next_multiple_of(BLOCK);
            libc::fallocate(self.file.as_raw_fd(), how, self.at as libc::off_t, len as libc::off_t);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        let registers = Registers { pages: 9, globals: vec![1], host: Default::default() };
        let head = Head { image: "i".into(), page: 256, registers };
        let mut session = Session::default();
        let patch = Patch { pages: vec![3, 7], parts: vec![1, 1 << 63], bytes: b"abcdefgh".to_vec() };
        session.advance(Some(Delta { head, patch }));
        session
    }

    #[test]
    fn bytes_are_the_session() {
        let session = session();
        let bytes = session.to_bytes().unwrap();
        let back = Session::from_bytes(&bytes).unwrap();
        assert_eq!((back.blocks(), back.delta().unwrap()), (1, session.delta().unwrap()));
        assert!(
            Session::from_bytes(&Session::default().to_bytes().unwrap()).unwrap().delta().unwrap().is_none()
        );
        for n in (0..4).chain(5..bytes.len()) {
            assert!(Session::from_bytes(&bytes[..n]).is_err(), "{n} bytes");
        }
        for n in 4..12 {
            let mut wrong = bytes.clone();
            wrong[n] ^= 0x41;
            assert!(Session::from_bytes(&wrong).is_err(), "byte {n}");
        }
    }

    #[test]
    fn what_is_spilled_comes_back_and_its_space_goes() {
        let dir = tempfile::tempdir().unwrap();
        let spill = Spill::new(dir.path()).unwrap();
        let whole = session().delta().unwrap();
        let mut all: Vec<_> = (0..50).map(|_| session()).collect();
        all.iter_mut().for_each(|s| s.spill(&spill).unwrap());
        assert!(all.iter().all(|s| s.bytes() < 64 && s.delta().unwrap() == whole));
        let fork = all[7].clone();
        let full = spill.bytes().unwrap();
        assert!(full >= 50 * 20);
        drop(all);
        assert_eq!(fork.delta().unwrap(), whole);
        #[cfg(target_os = "linux")]
        assert!(spill.bytes().unwrap() < full / 10, "{full} bytes and {} after", spill.bytes().unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "it has a name");
    }
}
