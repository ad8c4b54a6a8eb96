//! The block formats of GGUF tensors, to f32.
//!
//! A block holds 32 (`Q*_0`, `Q*_1`) or 256 (`Q*_K`) consecutive elements of a row: small integers and the scales
//! that turn them into numbers. Products and sums are in f32 and in the order ggml takes them.

use half::{bf16, f16};

/// An element type that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorType {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

use TensorType::*;

impl TensorType {
    /// All that can be read.
    pub const ALL: [TensorType; 11] = [F32, F16, Bf16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4K, Q5K, Q6K];

    /// Its number in the file.
    pub fn id(self) -> u32 {
        match self {
            F32 => 0,
            F16 => 1,
            Q4_0 => 2,
            Q4_1 => 3,
            Q5_0 => 6,
            Q5_1 => 7,
            Q8_0 => 8,
            Q4K => 12,
            Q5K => 13,
            Q6K => 14,
            Bf16 => 30,
        }
    }

    /// The type of that number, if it is read.
    pub fn from_id(id: u32) -> Option<TensorType> {
        TensorType::ALL.into_iter().find(|t| t.id() == id)
    }

    /// Its name in ggml.
    pub fn name(self) -> &'static str {
        match self {
            F32 => "F32",
            F16 => "F16",
            Bf16 => "BF16",
            Q4_0 => "Q4_0",
            Q4_1 => "Q4_1",
            Q5_0 => "Q5_0",
            Q5_1 => "Q5_1",
            Q8_0 => "Q8_0",
            Q4K => "Q4_K",
            Q5K => "Q5_K",
            Q6K => "Q6_K",
        }
    }

    /// Elements a block.
    pub fn block_elements(self) -> usize {
        match self {
            F32 | F16 | Bf16 => 1,
            Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 => 32,
            Q4K | Q5K | Q6K => 256,
        }
    }

    /// Bytes a block.
    pub fn block_bytes(self) -> usize {
        match self {
            F32 => 4,
            F16 | Bf16 => 2,
            Q4_0 => 18,
            Q4_1 => 20,
            Q5_0 => 22,
            Q5_1 => 24,
            Q8_0 => 34,
            Q4K => 144,
            Q5K => 176,
            Q6K => 210,
        }
    }
}

/// What a type number is called, for messages about those that are not read.
pub fn type_name(id: u32) -> String {
    let known = [
        (9, "Q8_1"),
        (10, "Q2_K"),
        (11, "Q3_K"),
        (15, "Q8_K"),
        (16, "IQ2_XXS"),
        (17, "IQ2_XS"),
        (18, "IQ3_XXS"),
        (19, "IQ1_S"),
        (20, "IQ4_NL"),
        (21, "IQ3_S"),
        (22, "IQ2_S"),
        (23, "IQ4_XS"),
        (24, "I8"),
        (25, "I16"),
        (26, "I32"),
        (27, "I64"),
        (28, "F64"),
        (29, "IQ1_M"),
        (34, "TQ1_0"),
        (35, "TQ2_0"),
        (39, "MXFP4"),
    ];
    let name = known.iter().find(|(known, _)| *known == id).map(|(_, name)| name.to_string());
    name.or(TensorType::from_id(id).map(|t| t.name().to_string())).unwrap_or_else(|| format!("number {id}"))
}

/// The elements of whole `blocks`.
pub fn floats(kind: TensorType, blocks: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; blocks.len() / kind.block_bytes() * kind.block_elements()];
    let pairs = out.chunks_exact_mut(kind.block_elements()).zip(blocks.chunks_exact(kind.block_bytes()));
    macro_rules! each {
        ($decode:expr) => {
            pairs.for_each(|(out, block)| $decode(block, out))
        };
    }
    match kind {
        F32 => each!(|b: &[u8], out: &mut [f32]| out[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        F16 => each!(|b: &[u8], out: &mut [f32]| out[0] = half_at(b, 0)),
        Bf16 => each!(|b: &[u8], out: &mut [f32]| out[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32()),
        Q4_0 => each!(q4_0),
        Q4_1 => each!(q4_1),
        Q5_0 => each!(q5_0),
        Q5_1 => each!(q5_1),
        Q8_0 => each!(q8_0),
        Q4K => each!(q4_k),
        Q5K => each!(q5_k),
        Q6K => each!(q6_k),
    }
    out
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// 16 bytes of nibbles: the low ones are the first half of the block, the high ones the second.
fn nibbles(qs: &[u8], out: &mut [f32], value: impl Fn(usize, u8) -> f32) {
    for (j, q) in qs.iter().enumerate() {
        out[j] = value(j, q & 15);
        out[j + 16] = value(j + 16, q >> 4);
    }
}

fn q4_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    nibbles(&block[2..], out, |_, q| (q as i32 - 8) as f32 * d);
}

fn q4_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    nibbles(&block[4..], out, |_, q| q as f32 * d + m);
}

/// The fifth bit of element `j` is bit `j` of a 32-bit word.
fn fifth(word: &[u8], j: usize) -> u8 {
    ((word[j / 8] >> (j % 8)) & 1) << 4
}

fn q5_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    nibbles(&block[6..], out, |j, q| ((q | fifth(&block[2..6], j)) as i32 - 16) as f32 * d);
}

fn q5_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    nibbles(&block[8..], out, |j, q| (q | fifth(&block[4..8], j)) as f32 * d + m);
}

fn q8_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (x, q) in out.iter_mut().zip(&block[2..]) {
        *x = *q as i8 as f32 * d;
    }
}

/// Scale and minimum, six bits each, of sub-block `j` of eight, packed into twelve bytes.
fn scale_min(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        let scale = (packed[j + 4] & 15) | ((packed[j - 4] >> 6) << 4);
        (scale, (packed[j + 4] >> 4) | ((packed[j] >> 6) << 4))
    };
    (scale as f32, min as f32)
}

/// Eight sub-blocks of 32 elements; two of them share 32 bytes of nibbles. `high(sub, l)` adds what the nibbles lack.
fn k_nibbles(block: &[u8], qs: &[u8], out: &mut [f32], high: impl Fn(usize, usize) -> u8) {
    let (d, min) = (half_at(block, 0), half_at(block, 2));
    for (sub, out) in out.chunks_exact_mut(32).enumerate() {
        let (s, m) = scale_min(&block[4..16], sub);
        let (scale, offset) = (d * s, min * m);
        let shift = 4 * (sub % 2);
        for (l, x) in out.iter_mut().enumerate() {
            let q = ((qs[sub / 2 * 32 + l] >> shift) & 15) + high(sub, l);
            *x = scale * q as f32 - offset;
        }
    }
}

fn q4_k(block: &[u8], out: &mut [f32]) {
    k_nibbles(block, &block[16..], out, |_, _| 0);
}

fn q5_k(block: &[u8], out: &mut [f32]) {
    k_nibbles(block, &block[48..], out, |sub, l| ((block[16 + l] >> sub) & 1) << 4);
}

/// 16 scales of 16 elements; per half block, four runs of 32 elements share 64 bytes of nibbles and 32 of bit pairs.
fn q6_k(block: &[u8], out: &mut [f32]) {
    let (low, high, scales, d) = (&block[..128], &block[128..192], &block[192..208], half_at(block, 208));
    for (run, out) in out.chunks_exact_mut(32).enumerate() {
        let (half, quarter) = (run / 4, run % 4);
        for (l, x) in out.iter_mut().enumerate() {
            let nibble = (low[half * 64 + quarter % 2 * 32 + l] >> (quarter / 2 * 4)) & 15;
            let pair = (high[half * 32 + l] >> (quarter * 2)) & 3;
            let scale = scales[run * 2 + l / 16] as i8 as f32;
            *x = d * scale * ((nibble | (pair << 4)) as i32 - 32) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A block as a row of bits, least significant first: the formats defined by bit positions, element by element.
    struct Bits<'a>(&'a [u8]);

    impl Bits<'_> {
        fn field(&self, bit: usize, width: usize) -> i64 {
            (0..width).map(|i| i64::from((self.0[(bit + i) / 8] >> ((bit + i) % 8)) & 1) << i).sum()
        }

        fn half(&self, byte: usize) -> f64 {
            f16::from_bits(self.field(byte * 8, 16) as u16).to_f64()
        }

        /// Bit of the nibble of element `i`, of nibbles from `byte` on that lie in runs of `run` elements: a run's
        /// low nibbles, then the next run's high nibbles in the same bytes.
        fn nibble(&self, byte: usize, run: usize, i: usize) -> i64 {
            let (pair, within) = (i / (2 * run), i % (2 * run));
            self.field((byte + pair * run + within % run) * 8 + within / run * 4, 4)
        }
    }

    /// Element `i` of a block, in f64, from the format's definition.
    fn reference(kind: TensorType, block: &[u8], i: usize) -> f64 {
        let b = Bits(block);
        let k_scale = |j: usize| match j {
            0..4 => (b.field((4 + j) * 8, 6), b.field((8 + j) * 8, 6)),
            _ => (
                b.field((8 + j) * 8, 4) + 16 * b.field(j * 8 + 6, 2),
                b.field((8 + j) * 8 + 4, 4) + 16 * b.field((4 + j) * 8 + 6, 2),
            ),
        };
        match kind {
            F32 => f32::from_bits(b.field(0, 32) as u32) as f64,
            F16 => b.half(0),
            Bf16 => f32::from_bits((b.field(0, 16) as u32) << 16) as f64,
            Q4_0 => b.half(0) * (b.nibble(2, 16, i) - 8) as f64,
            Q4_1 => b.half(0) * b.nibble(4, 16, i) as f64 + b.half(2),
            Q5_0 => b.half(0) * (b.nibble(6, 16, i) + 16 * b.field(16 + i, 1) - 16) as f64,
            Q5_1 => b.half(0) * (b.nibble(8, 16, i) + 16 * b.field(32 + i, 1)) as f64 + b.half(2),
            Q8_0 => b.half(0) * (b.field(16 + i * 8, 8) as u8 as i8) as f64,
            Q4K | Q5K => {
                let (scale, min) = k_scale(i / 32);
                let q = match kind {
                    Q4K => b.nibble(16, 32, i),
                    _ => b.nibble(48, 32, i) + 16 * b.field((16 + i % 32) * 8 + i / 32, 1),
                };
                b.half(0) * (scale * q) as f64 - b.half(2) * min as f64
            }
            Q6K => {
                let (half, run, l) = (i / 128, i % 128 / 32, i % 32);
                let low = b.field((half * 64 + run % 2 * 32 + l) * 8 + run / 2 * 4, 4);
                let high = b.field((128 + half * 32 + l) * 8 + run * 2, 2);
                let scale = b.field((192 + i / 16) * 8, 8) as u8 as i8;
                b.half(208) * (scale as i64 * (low + 16 * high - 32)) as f64
            }
        }
    }

    /// Puts a sane f16 scale at a byte: random bits are as often NaN or enormous.
    fn tame(block: &mut [u8], kind: TensorType) {
        let at: &[usize] = match kind {
            F32 | F16 | Bf16 => &[],
            Q4_0 | Q5_0 | Q8_0 => &[0],
            Q4_1 | Q5_1 | Q4K | Q5K => &[0, 2],
            Q6K => &[208],
        };
        for &at in at {
            let scale = f16::from_f32((block[at] as f32 - 100.0) / 64.0);
            block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }

    proptest! {
        #[test]
        fn every_type_matches_its_definition(bytes in prop::collection::vec(any::<u8>(), 420)) {
            for kind in TensorType::ALL {
                let mut blocks = bytes[..2 * kind.block_bytes()].to_vec();
                blocks.chunks_exact_mut(kind.block_bytes()).for_each(|b| tame(b, kind));
                let got = floats(kind, &blocks);
                prop_assert_eq!(got.len(), 2 * kind.block_elements());
                for (i, x) in got.iter().enumerate() {
                    let (block, i) = (i / kind.block_elements(), i % kind.block_elements());
                    let expected = reference(kind, &blocks[block * kind.block_bytes()..][..kind.block_bytes()], i);
                    let close = (*x as f64 - expected).abs() <= 1e-6 * expected.abs().max(100.0);
                    prop_assert!(close || !expected.is_finite(), "{} element {i}: {x} for {expected}", kind.name());
                }
            }
        }
    }

    #[test]
    fn types_are_known_by_number_and_name() {
        assert!(TensorType::ALL.iter().all(|t| TensorType::from_id(t.id()) == Some(*t)));
        assert_eq!(
            (type_name(10), type_name(14), type_name(99)),
            ("Q2_K".into(), "Q6_K".into(), "number 99".into())
        );
    }
}
