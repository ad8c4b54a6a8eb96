//! The difference between two memories: of each page that differs, the sixty-fourths that do.
//!
//! A call writes a word here and a word there: `x = 1` touches a hundred pages and changes a hundredth of them.

/// Parts of a page, one a bit of [`Patch::parts`].
const PARTS: usize = 64;

/// What one memory has in other bytes than another.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Patch {
    /// Numbers of pages, ascending.
    pub pages: Vec<u32>,
    /// Of each, which parts differ.
    pub parts: Vec<u64>,
    /// Their bytes, one part after the other.
    pub bytes: Vec<u8>,
}

impl Patch {
    /// Adds page `n`, whose bytes are `new`, where it differs from `old`.
    pub fn push(&mut self, n: u32, new: &[u8], old: &[u8]) {
        if new == old {
            return;
        }
        let size = new.len() / PARTS;
        let mut parts = 0;
        for (i, (new, old)) in new.chunks_exact(size).zip(old.chunks_exact(size)).enumerate() {
            if new != old {
                parts |= 1 << i;
                self.bytes.extend_from_slice(new);
            }
        }
        self.pages.push(n);
        self.parts.push(parts);
    }

    /// Gives unused memory back.
    pub fn shrink(&mut self) {
        self.pages.shrink_to_fit();
        self.parts.shrink_to_fit();
        self.bytes.shrink_to_fit();
    }

    /// Puts it over `memory`, whose pages have `page` bytes. False, with some of it done, where it does not fit.
    pub fn apply(&self, memory: &mut [u8], page: usize) -> bool {
        let size = page / PARTS;
        let mut bytes = self.bytes.chunks_exact(size);
        for (n, parts) in self.pages.iter().zip(&self.parts) {
            for i in (0..PARTS).filter(|i| parts >> i & 1 == 1) {
                let at = *n as usize * page + i * size;
                let (Some(to), Some(from)) = (memory.get_mut(at..at + size), bytes.next()) else {
                    return false;
                };
                to.copy_from_slice(from);
            }
        }
        true
    }

    /// Bytes of memory it takes.
    pub fn size(&self) -> usize {
        self.pages.capacity() * 4 + self.parts.capacity() * 8 + self.bytes.capacity()
    }

    /// Whether pages ascend and there are as many bytes as its parts say, of pages of `page` bytes.
    pub fn is_sound(&self, page: usize) -> bool {
        let parts: usize = self.parts.iter().map(|p| p.count_ones() as usize).sum();
        self.pages.len() == self.parts.len()
            && self.pages.windows(2).all(|w| w[0] < w[1])
            && parts.checked_mul(page / PARTS) == Some(self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_over_the_old_is_the_new() {
        let page = 256;
        let old: Vec<u8> = (0..page * 9).map(|i| (i * 7 % 251) as u8).collect();
        let mut new = old.clone();
        for at in [3, 4, 300, 511, 512, 2047, 2048] {
            new[at] ^= 0x55;
        }
        new[1024..1280].fill(9);
        let mut patch = Patch::default();
        for n in 0..9 {
            let at = n * page..(n + 1) * page;
            patch.push(n as u32, &new[at.clone()], &old[at]);
        }
        assert_eq!(patch.pages, [0, 1, 2, 4, 7, 8]);
        assert_eq!(patch.parts[0], 0b11);
        assert!(patch.is_sound(page) && patch.bytes.len() <= 256 + 7 * 4);
        let mut memory = old.clone();
        assert!(patch.apply(&mut memory, page));
        assert_eq!(memory, new);
        assert!(!patch.apply(&mut old[..8 * page].to_vec(), page), "it ends beyond that");
        for wrong in [
            Patch { pages: vec![1, 0, 2, 4, 7, 8], ..patch.clone() },
            Patch { parts: patch.parts[1..].to_vec(), ..patch.clone() },
            Patch { bytes: patch.bytes[4..].to_vec(), ..patch.clone() },
        ] {
            assert!(!wrong.is_sound(page));
        }
    }
}
