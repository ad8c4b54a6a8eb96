//! Speed of the CPU kernels at the shapes of a 135M-parameter model: `cargo bench -p toolsmith-graphs --bench kernels [-- FILTER]`.
//! Each line is the best of several runs, on one thread and on all.

use half::bf16;
use std::hint::black_box;
use std::time::Instant;
use toolsmith_graphs::cpu::*;

fn values(n: usize) -> Vec<f32> {
    let mut s = 1u32;
    let mut next = || {
        s ^= s << 13;
        s ^= s >> 17;
        s ^= s << 5;
        s as f32 / 4e9 - 0.5
    };
    (0..n).map(|_| next()).collect()
}

fn halves(n: usize) -> Vec<bf16> {
    values(n).into_iter().map(bf16::from_f32).collect()
}

/// Seconds of the fastest of a few runs of `f`.
fn best(mut f: impl FnMut()) -> f64 {
    f();
    let start = Instant::now();
    f();
    let once = start.elapsed().as_secs_f64();
    let inner = ((5e-3 / once.max(1e-9)) as usize).clamp(1, 10_000);
    (0..12).fold(f64::MAX, |best, _| {
        let start = Instant::now();
        (0..inner).for_each(|_| f());
        best.min(start.elapsed().as_secs_f64() / inner as f64)
    })
}

struct Bench {
    filter: String,
    pools: Vec<rayon::ThreadPool>,
}

impl Bench {
    /// Measures `f`, which does `work` units (operations or bytes).
    fn line(&self, name: &str, work: f64, unit: &str, mut f: impl FnMut() + Send) {
        if !name.contains(&self.filter) {
            return;
        }
        let rates: Vec<String> = self
            .pools
            .iter()
            .map(|pool| pool.install(|| best(&mut f)))
            .map(|s| format!("{:8.1} {unit} ({:9.1} us)", work / s / 1e9, s * 1e6))
            .collect();
        println!("{name:44} {}", rates.join("  "));
    }
}

fn main() {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with("--")).unwrap_or_default();
    let pool = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().expect("a thread pool");
    let all = std::thread::available_parallelism().map_or(1, |n| n.get());
    let bench = Bench { filter, pools: vec![pool(1), pool(all)] };
    println!("{:?}; 1 thread, then {all}", Isa::current());
    products(&bench);
    gemv(&bench);
}

fn products(bench: &Bench) {
    for (t, n, k) in [
        (512, 576, 576),
        (512, 1536, 576),
        (512, 576, 1536),
        (2048, 1536, 576),
        (16, 1536, 576),
        (32, 576, 1536),
        (8, 1536, 576),
        (64, 128, 128),
    ] {
        let d = Dims { t, n, k };
        let flops = 2.0 * (t * n * k) as f64;
        let (x, dy) = (values(t * k), values(t * n));
        let (w, wf) = (halves(n * k), values(n * k));
        let mut y = vec![0.0; t * n];
        let mut dx = vec![0.0; t * k];
        let mut dw = vec![0.0; n * k];
        let bytes = linear_scratch(d, true).max(linear_dx_scratch(d, true)).max(linear_dw_scratch(d, true));
        let mut buf =
            ScratchBuf::new(bytes.max(linear_dx_scratch(d, false)).max(linear_dw_scratch(d, false)));
        for (kind, w) in [("bf16", Mat::Bf16(&w)), ("f32", Mat::F32(&wf))] {
            let name = format!("linear {kind} {t}x{n}x{k}");
            bench.line(&name, flops, "GFLOP/s", || linear(black_box(&x), w, None, &mut y, d, &mut buf.get()));
            if t >= 64 {
                let name = format!("linear_dx {kind} {t}x{n}x{k}");
                bench.line(&name, flops, "GFLOP/s", || {
                    linear_dx(black_box(&dy), w, &mut dx, false, d, &mut buf.get())
                });
                let name = format!("linear_dw {kind} {t}x{n}x{k}");
                let half = kind == "bf16";
                bench.line(&name, flops, "GFLOP/s", || {
                    linear_dw(black_box(&x), &dy, &mut dw, half, d, &mut buf.get())
                });
            }
        }
    }
}

/// Weights larger than the caches, as in decoding.
fn gemv(bench: &Bench) {
    const LAYERS: usize = 120;
    let (n, k) = (1536, 576);
    let w = halves(n * k * LAYERS);
    for t in [1, 2, 4, 8, 16, 32] {
        let d = Dims { t, n, k };
        let x = values(t * k);
        let mut y = vec![0.0; t * n];
        let mut buf = ScratchBuf::new(linear_scratch(d, true));
        let name = format!("gemv bf16 from memory, {t} rows");
        bench.line(&name, (n * k * LAYERS * 2) as f64, "GB/s", || {
            for w in w.chunks_exact(n * k) {
                linear(black_box(&x), Mat::Bf16(w), None, &mut y, d, &mut buf.get());
            }
        });
    }
}
