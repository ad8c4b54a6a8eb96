//! What a kernel's call has to move and to compute: the yardstick that a measured time is held against.

use std::{iter::Sum, ops::Add};

/// Bytes and floating-point operations of a call.
///
/// Bytes count each operand once, at the size it is stored in, as if no cache held it; copies that a kernel makes for
/// itself are not counted. A multiplication, an addition, a division, a root and an exponential are one operation each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Bytes read.
    pub read: u64,
    /// Bytes written.
    pub written: u64,
    /// Operations of products whose inputs are rounded to bf16.
    pub bf16_flops: u64,
    /// All other operations.
    pub f32_flops: u64,
}

impl Work {
    /// Bytes read and written.
    pub fn bytes(&self) -> u64 {
        self.read + self.written
    }

    /// All operations.
    pub fn flops(&self) -> u64 {
        self.bf16_flops + self.f32_flops
    }

    pub(crate) fn reading(mut self, bytes: usize) -> Self {
        self.read += bytes as u64;
        self
    }

    pub(crate) fn writing(mut self, bytes: usize) -> Self {
        self.written += bytes as u64;
        self
    }

    /// Adds the operations of a matrix product, in bf16 or f32.
    pub(crate) fn product(mut self, flops: usize, bf16: bool) -> Self {
        *(if bf16 { &mut self.bf16_flops } else { &mut self.f32_flops }) += flops as u64;
        self
    }

    /// Adds operations on f32 numbers.
    pub(crate) fn flop(self, flops: usize) -> Self {
        self.product(flops, false)
    }
}

impl Add for Work {
    type Output = Work;
    fn add(self, other: Work) -> Work {
        Work {
            read: self.read + other.read,
            written: self.written + other.written,
            bf16_flops: self.bf16_flops + other.bf16_flops,
            f32_flops: self.f32_flops + other.f32_flops,
        }
    }
}

impl Sum for Work {
    fn sum<I: Iterator<Item = Work>>(items: I) -> Work {
        items.fold(Work::default(), Add::add)
    }
}
