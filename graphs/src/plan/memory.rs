//! Where each value of a plan lies: lifetimes, then one arena in which buffers are reused as soon as they die.

use crate::shape::Extent;

/// A buffer from the step that writes it to the last step that reads it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lifetime {
    /// Bytes at capacity, a multiple of [`crate::cpu::ALIGN`].
    pub bytes: usize,
    /// Step that writes it.
    pub first: usize,
    /// Last step that reads it; `usize::MAX` for an output of the plan.
    pub last: usize,
}

/// Assigns byte offsets to lifetimes sorted by `first`; returns them and the arena's size.
///
/// Best fit with coalescing: steps come in a fixed order, so a free list walked along with them is enough.
pub(crate) fn place(lifetimes: &[Lifetime]) -> (Vec<usize>, usize) {
    let mut offsets = vec![0; lifetimes.len()];
    let mut free: Vec<(usize, usize)> = Vec::new(); // (offset, bytes), by offset
    let mut live: Vec<usize> = Vec::new();
    let mut end = 0;
    for (i, l) in lifetimes.iter().enumerate() {
        live.retain(|&j| {
            let dead = lifetimes[j].last < l.first;
            if dead {
                release(&mut free, offsets[j], lifetimes[j].bytes);
            }
            !dead
        });
        let fit = (0..free.len()).filter(|&k| free[k].1 >= l.bytes).min_by_key(|&k| free[k].1);
        offsets[i] = match fit {
            Some(k) => {
                let (at, bytes) = free[k];
                if bytes == l.bytes {
                    free.remove(k);
                } else {
                    free[k] = (at + l.bytes, bytes - l.bytes);
                }
                at
            }
            None => {
                // Grow the arena, from its free tail if there is one.
                let at = match free.last() {
                    Some(&(at, bytes)) if at + bytes == end => {
                        free.pop();
                        at
                    }
                    _ => end,
                };
                end = at + l.bytes;
                at
            }
        };
        live.push(i);
    }
    (offsets, end)
}

fn release(free: &mut Vec<(usize, usize)>, offset: usize, bytes: usize) {
    let i = free.partition_point(|f| f.0 < offset);
    free.insert(i, (offset, bytes));
    if i + 1 < free.len() && free[i].0 + free[i].1 == free[i + 1].0 {
        free[i].1 += free.remove(i + 1).1;
    }
    if i > 0 && free[i - 1].0 + free[i - 1].1 == free[i].0 {
        free[i - 1].1 += free.remove(i).1;
    }
}

/// Bytes of a buffer of `n` numbers in the arena.
pub(crate) fn bytes(size: crate::shape::Size, capacity: Extent) -> usize {
    (size.at(capacity).max(1) * size_of::<f32>()).next_multiple_of(crate::cpu::ALIGN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_buffers_never_overlap_and_dead_ones_are_reused() {
        // A chain in which each step reads the one before, and one value that lives throughout.
        let mut l = vec![Lifetime { bytes: 128, first: 0, last: usize::MAX }];
        for i in 1..20 {
            l.push(Lifetime { bytes: 64 * (1 + i % 3), first: i, last: i + 1 });
        }
        let (at, end) = place(&l);
        for (i, a) in l.iter().enumerate() {
            for (j, b) in l.iter().enumerate().skip(i + 1) {
                if a.last >= b.first {
                    assert!(at[i] + a.bytes <= at[j] || at[j] + b.bytes <= at[i], "{i} and {j} overlap");
                }
            }
            assert!(at[i] + a.bytes <= end);
        }
        assert!(end <= 128 + 3 * 192, "the chain needs two or three buffers, not {end} bytes");
    }
}
