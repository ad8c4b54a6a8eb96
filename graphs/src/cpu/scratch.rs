//! Working memory handed to kernels, so that they allocate nothing.

use half::bf16;

/// A cache line; also what scratch starts on.
pub const ALIGN: usize = 64;

/// Bytes that `n` values of `T` take from a [`Scratch`].
pub(super) const fn bytes_of<T>(n: usize) -> usize {
    (n * size_of::<T>()).next_multiple_of(ALIGN)
}

/// Number formats a scratch piece may hold: any bit pattern is a value.
///
/// # Safety
/// The type has no padding and no invalid bit patterns, and its alignment divides [`ALIGN`].
pub(super) unsafe trait Plain: Copy {}
// SAFETY: plain numbers.
unsafe impl Plain for f32 {}
// SAFETY: plain numbers.
unsafe impl Plain for f64 {}
// SAFETY: plain numbers.
unsafe impl Plain for u32 {}
// SAFETY: a transparent u16.
unsafe impl Plain for bf16 {}
// SAFETY: three f32, no padding.
unsafe impl Plain for super::softmax::Denominator {}

/// A byte buffer from which a kernel takes pieces, each on a cache line.
///
/// Contents are unspecified before and after. Each kernel has a `*_scratch` function giving the bytes it needs.
pub struct Scratch<'a>(&'a mut [u8]);

impl<'a> Scratch<'a> {
    /// # Panics
    /// If `bytes` does not start on a multiple of [`ALIGN`].
    pub fn new(bytes: &'a mut [u8]) -> Self {
        assert!(bytes.as_ptr().addr().is_multiple_of(ALIGN), "scratch must start on a 64-byte boundary");
        Scratch(bytes)
    }

    /// Bytes left.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A view whose pieces are free again when it is dropped.
    pub fn reborrow(&mut self) -> Scratch<'_> {
        Scratch(self.0)
    }

    pub(super) fn take<T: Plain>(&mut self, n: usize) -> &'a mut [T] {
        let bytes = bytes_of::<T>(n);
        let whole = std::mem::take(&mut self.0);
        assert!(bytes <= whole.len(), "scratch too small: {bytes} bytes wanted, {} left", whole.len());
        let (head, tail) = whole.split_at_mut(bytes);
        self.0 = tail;
        // SAFETY: `head` is `bytes >= n * size_of::<T>()` exclusively borrowed bytes on a cache line
        // (every piece is a multiple of `ALIGN` long), and `T: Plain` accepts any bit pattern.
        unsafe { std::slice::from_raw_parts_mut(head.as_mut_ptr().cast(), n) }
    }
}

/// An owned, aligned buffer to make a [`Scratch`] of.
#[derive(Default)]
pub struct ScratchBuf(Vec<Line>);

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; ALIGN]);

impl ScratchBuf {
    /// A zeroed buffer of at least `bytes` bytes.
    pub fn new(bytes: usize) -> Self {
        ScratchBuf(vec![Line([0; ALIGN]); bytes.div_ceil(ALIGN)])
    }

    /// The whole buffer.
    pub fn get(&mut self) -> Scratch<'_> {
        // SAFETY: `Line` is 64 initialised bytes without padding.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast::<u8>(), self.0.len() * ALIGN) };
        Scratch(bytes)
    }

    /// The whole buffer, grown to `bytes` if smaller.
    pub fn at_least(&mut self, bytes: usize) -> Scratch<'_> {
        if self.0.len() * ALIGN < bytes {
            *self = Self::new(bytes);
        }
        self.get()
    }
}

/// Zeroed bytes from a cache line on. What is never touched is never backed by memory.
#[derive(Debug)]
pub(crate) struct Lines {
    bytes: Vec<u8>,
    start: usize,
}

impl Lines {
    pub fn new(bytes: usize) -> Self {
        let bytes = vec![0u8; bytes.next_multiple_of(ALIGN) + ALIGN];
        let start = bytes.as_ptr().align_offset(ALIGN);
        Lines { bytes, start }
    }
    pub fn len(&self) -> usize {
        self.bytes.len() - ALIGN
    }
    pub fn get(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len()]
    }
    pub fn get_mut(&mut self) -> &mut [u8] {
        let end = self.start + self.len();
        &mut self.bytes[self.start..end]
    }
}
