//! Guest memory as the host may touch it: every pointer and length comes from the program and is checked here.

/// A WASI error number (`wasi_snapshot_preview1`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    pub const SUCCESS: Errno = Errno(0);
    pub const BADF: Errno = Errno(8);
    pub const FAULT: Errno = Errno(21);
    pub const INVAL: Errno = Errno(28);
    pub const MFILE: Errno = Errno(33);
    pub const NAMETOOLONG: Errno = Errno(37);
    pub const NOENT: Errno = Errno(44);
    pub const NOSYS: Errno = Errno(52);
    pub const NOTDIR: Errno = Errno(54);
    pub const ROFS: Errno = Errno(69);
    pub const SPIPE: Errno = Errno(70);
    pub const NOTCAPABLE: Errno = Errno(76);
}

pub type Result<T> = std::result::Result<T, Errno>;

/// The most buffers one read or write may name (Linux's IOV_MAX).
const MAX_BUFFERS: u32 = 1024;

/// The linear memory of a stopped guest.
pub struct Guest<'a>(pub &'a mut [u8]);

impl Guest<'_> {
    /// `len` bytes at `at`.
    pub fn bytes(&self, at: u32, len: u32) -> Result<&[u8]> {
        let end = (at as usize).checked_add(len as usize).ok_or(Errno::FAULT)?;
        self.0.get(at as usize..end).ok_or(Errno::FAULT)
    }

    /// `len` writable bytes at `at`.
    pub fn bytes_mut(&mut self, at: u32, len: u32) -> Result<&mut [u8]> {
        let end = (at as usize).checked_add(len as usize).ok_or(Errno::FAULT)?;
        self.0.get_mut(at as usize..end).ok_or(Errno::FAULT)
    }

    pub fn put(&mut self, at: u32, bytes: &[u8]) -> Result<()> {
        let len = u32::try_from(bytes.len()).map_err(|_| Errno::FAULT)?;
        self.bytes_mut(at, len)?.copy_from_slice(bytes);
        Ok(())
    }

    pub fn put_u32(&mut self, at: u32, value: u32) -> Result<()> {
        self.put(at, &value.to_le_bytes())
    }

    pub fn put_u64(&mut self, at: u32, value: u64) -> Result<()> {
        self.put(at, &value.to_le_bytes())
    }

    pub fn u32(&self, at: u32) -> Result<u32> {
        let bytes = self.bytes(at, 4)?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("four bytes")))
    }

    /// The `n`th element of `size` bytes of an array at `at`.
    pub fn element(at: u32, n: u32, size: u32) -> Result<u32> {
        n.checked_mul(size).and_then(|o| at.checked_add(o)).ok_or(Errno::FAULT)
    }

    /// The buffers `(address, length)` of an iovec array, each inside memory, and their total length.
    pub fn buffers(&self, at: u32, n: u32) -> Result<(Vec<(u32, u32)>, u32)> {
        if n > MAX_BUFFERS {
            return Err(Errno::INVAL);
        }
        let mut all = Vec::with_capacity(n as usize);
        let mut total = 0u32;
        for i in 0..n {
            let at = Self::element(at, i, 8)?;
            let (ptr, len) = (self.u32(at)?, self.u32(Self::element(at, 1, 4)?)?);
            self.bytes(ptr, len)?;
            total = total.checked_add(len).ok_or(Errno::INVAL)?;
            all.push((ptr, len));
        }
        Ok((all, total))
    }

    /// Copies `data` into the buffers until either ends; gives the bytes copied.
    pub fn scatter(&mut self, buffers: &[(u32, u32)], mut data: &[u8]) -> Result<u32> {
        let before = data.len();
        for &(ptr, len) in buffers {
            let n = data.len().min(len as usize);
            self.put(ptr, &data[..n])?;
            data = &data[n..];
        }
        Ok((before - data.len()) as u32)
    }

    /// Strings, each ended by a NUL, at `buffer`, and their addresses at `pointers`.
    pub fn strings(&mut self, list: &[String], pointers: u32, buffer: u32) -> Result<()> {
        let mut at = buffer;
        for (i, text) in list.iter().enumerate() {
            self.put_u32(Self::element(pointers, i as u32, 4)?, at)?;
            self.put(at, text.as_bytes())?;
            at = Self::element(at, text.len() as u32, 1)?;
            self.put(at, &[0])?;
            at = Self::element(at, 1, 1)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_memory_is_reached() {
        let mut memory = vec![0u8; 64];
        let mut g = Guest(&mut memory);
        assert_eq!(g.bytes(60, 4).unwrap().len(), 4);
        for (at, len) in [(61, 4), (64, 1), (u32::MAX, 1), (u32::MAX, u32::MAX), (0, 65)] {
            assert_eq!(g.bytes(at, len), Err(Errno::FAULT));
            assert!(g.bytes_mut(at, len).is_err());
        }
        assert_eq!(g.bytes(64, 0), Ok(&[][..]));
        assert_eq!(Guest::element(u32::MAX, 1, 8), Err(Errno::FAULT));
        assert_eq!(g.put_u64(57, 1), Err(Errno::FAULT));
    }

    #[test]
    fn buffers_are_checked_before_any_is_used() {
        let mut memory = vec![0u8; 64];
        let mut g = Guest(&mut memory);
        let list = |g: &mut Guest, all: &[(u32, u32)]| {
            for (i, (p, l)) in all.iter().enumerate() {
                g.put_u32(8 * i as u32, *p).unwrap();
                g.put_u32(8 * i as u32 + 4, *l).unwrap();
            }
        };
        list(&mut g, &[(32, 8), (40, 3)]);
        let (all, total) = g.buffers(0, 2).unwrap();
        assert_eq!((all.as_slice(), total), (&[(32, 8), (40, 3)][..], 11));
        assert_eq!(g.scatter(&all, b"0123456789"), Ok(10));
        assert_eq!(g.bytes(32, 10).unwrap(), b"0123456789");
        list(&mut g, &[(32, 8), (60, 5)]);
        assert_eq!(g.buffers(0, 2), Err(Errno::FAULT));
        assert_eq!(g.buffers(0, 5000), Err(Errno::INVAL));
        assert_eq!(g.buffers(u32::MAX - 3, 1), Err(Errno::FAULT));
    }
}
