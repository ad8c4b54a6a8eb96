mod attention;
mod beginnings;
mod layers;
mod linear;
mod linear_backward;
mod sample;
mod token_logprob;

use half::bf16;
use std::sync::Mutex;
use toolsmith_graphs::cpu::{Isa, Mat, ScratchBuf};

static ISA: Mutex<()> = Mutex::new(());

/// Runs `test` once for each instruction set this machine has.
pub fn on_each_isa(mut test: impl FnMut()) {
    let _guard = ISA.lock().unwrap_or_else(|e| e.into_inner());
    for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
        Isa::force(Some(isa));
        test();
    }
    Isa::force(None);
}

/// Runs `f` in a pool of `threads` threads.
pub fn in_pool<T: Send>(threads: usize, f: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
}

/// splitmix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    /// Uniform in −1..1.
    pub fn f32(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
    pub fn vec(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.f32()).collect()
    }
}

/// An owned weight of either kind.
pub enum Weight {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
}

impl Weight {
    pub fn random(rng: &mut Rng, n: usize, bf16_mode: bool) -> Self {
        let w = rng.vec(n);
        if bf16_mode { Weight::Bf16(w.into_iter().map(bf16::from_f32).collect()) } else { Weight::F32(w) }
    }
    pub fn mat(&self) -> Mat<'_> {
        match self {
            Weight::F32(w) => Mat::F32(w),
            Weight::Bf16(w) => Mat::Bf16(w),
        }
    }
    pub fn f64(&self) -> Vec<f64> {
        match self {
            Weight::F32(w) => w.iter().map(|&x| x as f64).collect(),
            Weight::Bf16(w) => w.iter().map(|&x| x.to_f64()).collect(),
        }
    }
}

/// What a matmul input becomes in the given mode.
pub fn rounded(x: &[f32], bf16_mode: bool) -> Vec<f64> {
    x.iter().map(|&x| if bf16_mode { bf16::from_f32(x).to_f64() } else { x as f64 }).collect()
}

pub fn scratch(bytes: usize) -> ScratchBuf {
    ScratchBuf::new(bytes)
}

#[track_caller]
pub fn close(got: &[f32], want: &[f64], tol: f64, what: &str) {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().fold(1e-3f64, |m, x| m.max(x.abs()));
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let ok = (g as f64 - w).abs() <= tol * scale;
        assert!(ok, "{what}[{i}] = {g}, expected {w} ({:?}, scale {scale})", Isa::current());
    }
}

#[track_caller]
pub fn same_bits(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len());
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!(a.to_bits() == b.to_bits(), "{what}[{i}]: {a} and {b} differ ({:?})", Isa::current());
    }
}
