//! Which instruction set the kernels run on: detected once, or forced by a test or the environment.
//!
//! Every kernel exists once, written over [`Simd`](super::simd::Simd), and is compiled for each set.
//! Results are bitwise reproducible within a set, not between sets.

use std::sync::atomic::{AtomicU8, Ordering};

/// An instruction set the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Isa {
    /// Portable Rust loops over 16 lanes; what other architectures and old x86 run.
    Scalar = 1,
    /// AVX2 with FMA; bf16 products by widening.
    Avx2 = 2,
    /// AVX-512 F/BW/DQ/VL; bf16 products by widening.
    Avx512 = 3,
    /// AVX-512 with BF16 dot products.
    Avx512Bf16 = 4,
}

/// 0 until the first kernel asks.
static CURRENT: AtomicU8 = AtomicU8::new(0);

impl Isa {
    /// Every set, the best first.
    pub const ALL: [Isa; 4] = [Isa::Avx512Bf16, Isa::Avx512, Isa::Avx2, Isa::Scalar];

    /// As `TOOLSMITH_ISA` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Bf16 => "avx512bf16",
        }
    }

    /// The best set of this machine, lowered by `TOOLSMITH_ISA` = a [`Isa::name`] (other values, and sets the machine lacks,
    /// are ignored).
    pub fn detect() -> Isa {
        let asked = std::env::var("TOOLSMITH_ISA").ok();
        let asked = Isa::ALL.into_iter().find(|isa| asked.as_deref() == Some(isa.name()) && isa.available());
        asked.or_else(|| Isa::ALL.into_iter().find(|isa| isa.available())).unwrap_or(Isa::Scalar)
    }

    /// Whether this machine can run the set.
    pub fn available(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => Isa::Avx512.available() && is_x86_feature_detected!("avx512bf16"),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// Makes every kernel of the process use `isa`, or detection again if `None`. For tests and
    /// benches; not meant to change while kernels run.
    ///
    /// # Panics
    /// If the machine lacks the set.
    pub fn force(isa: Option<Isa>) {
        assert!(isa.is_none_or(Isa::available), "this machine cannot run {isa:?}");
        CURRENT.store(isa.map_or(0, |isa| isa as u8), Ordering::Relaxed);
    }

    /// The set in use.
    #[inline]
    pub fn current() -> Isa {
        match CURRENT.load(Ordering::Relaxed) {
            1 => Isa::Scalar,
            2 => Isa::Avx2,
            3 => Isa::Avx512,
            4 => Isa::Avx512Bf16,
            _ => {
                let isa = Isa::detect();
                CURRENT.store(isa as u8, Ordering::Relaxed);
                isa
            }
        }
    }
}
