//! Which sequence holds which blocks of a KV cache: plain data, no tensors.
//!
//! A slot's positions lie in blocks of [`BLOCK`], listed in its table. A block may be listed in several tables, where
//! their sequences begin alike; it is counted how often, and a slot that is about to write into a shared block gets a copy of
//! its own. So the samples of a prompt share all of its whole blocks, and its last one until they part.

use toolsmith_graphs::plan::{BLOCK, blocks_for};

/// No block is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the KV cache is full: {needed} more blocks of {BLOCK} positions are needed, {free} are free")]
pub struct Full {
    /// Blocks asked for.
    pub needed: usize,
    /// Blocks there were.
    pub free: usize,
}

/// The tables of all slots.
#[derive(Clone, Debug)]
pub struct KvBlocks {
    tables: Vec<Vec<u32>>,
    /// How many tables list a block.
    users: Vec<u32>,
    /// The last one is taken first.
    free: Vec<u32>,
    /// Blocks to copy before anything is written: from, to.
    copies: Vec<(u32, u32)>,
    peak: usize,
}

impl KvBlocks {
    /// `slots` empty slots of at most `max_context` positions over `blocks` blocks.
    pub fn new(slots: usize, max_context: usize, blocks: usize) -> Self {
        Self {
            tables: vec![Vec::with_capacity(blocks_for(max_context)); slots],
            users: vec![0; blocks],
            free: (0..blocks as u32).rev().collect(),
            copies: Vec::with_capacity(slots),
            peak: 0,
        }
    }

    /// Blocks in all.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether there is not one block.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Blocks that no slot has.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Most blocks that were in use at a time since [`KvBlocks::clear`].
    pub fn peak(&self) -> usize {
        self.peak
    }

    /// The blocks of a slot, in the order of its positions.
    pub fn table(&self, slot: usize) -> &[u32] {
        &self.tables[slot]
    }

    /// Free blocks that [`KvBlocks::reserve`] would take.
    pub fn needs(&self, slot: usize, past: usize, len: usize) -> usize {
        let (first, end, table) = (past / BLOCK, blocks_for(past + len), &self.tables[slot]);
        assert!(first <= table.len(), "slot {slot} holds {} blocks, not {past} positions", table.len());
        let shared = |&&block: &&u32| self.users[block as usize] > 1;
        let copied = table[first..end.min(table.len())].iter().filter(shared).count();
        copied + end.saturating_sub(table.len())
    }

    /// Makes room in a slot for `len` positions after `past`, in blocks that no other slot has.
    ///
    /// # Errors
    /// If too few blocks are free; then nothing has changed.
    pub fn reserve(&mut self, slot: usize, past: usize, len: usize) -> Result<(), Full> {
        let (needed, free) = (self.needs(slot, past, len), self.free.len());
        if needed > free {
            return Err(Full { needed, free });
        }
        let end = blocks_for(past + len);
        for i in past / BLOCK..end.min(self.tables[slot].len()) {
            let block = self.tables[slot][i];
            if self.users[block as usize] > 1 {
                self.users[block as usize] -= 1;
                self.tables[slot][i] = self.take();
                self.copies.push((block, self.tables[slot][i]));
            }
        }
        while self.tables[slot].len() < end {
            let block = self.take();
            self.tables[slot].push(block);
        }
        Ok(())
    }

    /// Slot `to` lets go of what it has and begins with the first `len` positions of slot `from`. Copies nothing.
    pub fn share(&mut self, from: usize, to: usize, len: usize) {
        assert!(from != to, "slot {from} shares with itself");
        self.release(to);
        for i in 0..blocks_for(len) {
            let block = self.tables[from][i];
            self.users[block as usize] += 1;
            self.tables[to].push(block);
        }
    }

    /// A slot lets go of what lies after the blocks of its first `len` positions.
    pub fn truncate(&mut self, slot: usize, len: usize) {
        while self.tables[slot].len() > blocks_for(len) {
            let block = self.tables[slot].pop().expect("it has more");
            let users = &mut self.users[block as usize];
            *users -= 1;
            if *users == 0 {
                self.free.push(block);
            }
        }
    }

    /// A slot lets go of all it has.
    pub fn release(&mut self, slot: usize) {
        self.truncate(slot, 0);
    }

    /// All slots let go of what they have, and the peak is forgotten.
    pub fn clear(&mut self) {
        (0..self.tables.len()).for_each(|slot| self.release(slot));
        self.copies.clear();
        self.peak = 0;
    }

    /// The blocks to copy before the next write, in order: from, to.
    pub fn take_copies(&mut self) -> impl Iterator<Item = (u32, u32)> {
        self.copies.drain(..)
    }

    fn take(&mut self) -> u32 {
        let block = self.free.pop().expect("the caller has counted them");
        self.users[block as usize] = 1;
        self.peak = self.peak.max(self.users.len() - self.free.len());
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_grows_by_blocks_and_gives_them_back() {
        let mut kv = KvBlocks::new(2, 4 * BLOCK, 5);
        kv.reserve(0, 0, BLOCK + 1).unwrap();
        assert_eq!((kv.table(0), kv.free()), (&[0, 1][..], 3));
        kv.reserve(0, BLOCK + 1, BLOCK - 1).unwrap();
        assert_eq!(kv.table(0).len(), 2);
        kv.reserve(1, 0, 3 * BLOCK).unwrap();
        assert_eq!(kv.reserve(0, 2 * BLOCK, 1), Err(Full { needed: 1, free: 0 }));
        assert_eq!(kv.table(0).len(), 2, "a refusal changes nothing");
        kv.release(1);
        kv.reserve(0, 2 * BLOCK, 1).unwrap();
        assert_eq!((kv.free(), kv.peak(), kv.take_copies().count()), (2, 5, 0));
        kv.truncate(0, 1);
        assert_eq!((kv.table(0), kv.free()), (&[0][..], 4));
    }

    #[test]
    fn sharers_part_where_they_write() {
        let mut kv = KvBlocks::new(3, 4 * BLOCK, 6);
        kv.reserve(0, 0, 2 * BLOCK + 9).unwrap();
        for slot in [1, 2] {
            kv.share(0, slot, 2 * BLOCK + 8);
        }
        assert_eq!(kv.free(), 3, "sharing takes no block");
        // The first two to write get a copy of the last block; the third is its only user by then.
        for slot in [1, 0, 2] {
            kv.reserve(slot, 2 * BLOCK + 8, 1).unwrap();
        }
        assert_eq!(kv.take_copies().collect::<Vec<_>>(), [(2, 3), (2, 4)]);
        assert_eq!([0, 1, 2].map(|s| kv.table(s)), [[0, 1, 4], [0, 1, 3], [0, 1, 2]]);
        kv.release(0);
        kv.release(1);
        assert_eq!(kv.free(), 3);
        kv.release(2);
        assert_eq!(kv.free(), 6);
    }
}
