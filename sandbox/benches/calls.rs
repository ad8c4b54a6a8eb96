//! Single calls, reset included: `cargo bench -p toolsmith-sandbox`. `toolsmith sandbox bench` has more, and ratios.

use criterion::{Criterion, criterion_group, criterion_main};
use toolsmith_sandbox::Sandbox;
use toolsmith_sandbox::bench::CALLS;

fn calls(c: &mut Criterion) {
    let mut python = Sandbox::builder().build().expect("an image and an interpreter");
    let mut group = c.benchmark_group("calls");
    for (name, source) in CALLS {
        group.bench_function(name, |b| b.iter(|| python.run(source)));
    }
    group.finish();
}

criterion_group!(benches, calls);
criterion_main!(benches);
