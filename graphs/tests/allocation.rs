//! Executing a plan allocates nothing, forward, backward and optimizer step included.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

use toolsmith_graphs::{Bindings, DiffOptions, Dim, Graph, Options, Plan, loss};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn running_a_plan_allocates_nothing() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    pool.install(|| {
        let (v, h) = (300, 64);
        let g = Graph::new();
        let (ids, targets) = (g.u32_input("ids", &[Dim::Tokens]), g.u32_input("targets", &[Dim::Tokens]));
        let weights = g.f32_input("weights", &[Dim::Tokens]);
        let table = g.param(0, "embed", &[v, h]);
        let x = table.embedding(&ids).rms_norm(&g.param(1, "norm", &[h]), 1e-5);
        let x = &x + x.linear(&g.param(2, "w", &[h, h]), None);
        let l = x.token_logprob(&g.param(0, "embed", &[v, h]), &targets, &g.constant(1.0));
        let loss = loss::cross_entropy(&l, &weights);
        g.differentiate(&loss, &[], DiffOptions::default());
        let mut plan = Plan::compile(&g, &[&loss], Options { tokens: 64, rows: 0, bf16: false }).unwrap();
        let inputs = (
            plan.u32_input("ids").unwrap(),
            plan.u32_input("targets").unwrap(),
            plan.f32_input("weights").unwrap(),
        );
        let sizes = [v * h, h, h * h];
        let params: Vec<Vec<f32>> =
            sizes.iter().map(|&n| (0..n).map(|i| (i % 7) as f32 * 0.1).collect()).collect();
        let mut grads: Vec<Vec<f32>> = sizes.iter().map(|&n| vec![0.0; n]).collect();
        let (ids, weights) = ((0..50).collect::<Vec<u32>>(), vec![0.02; 50]);
        let mut run = |t: usize| {
            let mut b = Bindings::new(t, 0)
                .params(&params)
                .grads(&mut grads)
                .u32(inputs.0, &ids[..t])
                .u32(inputs.1, &ids[..t])
                .f32(inputs.2, &weights[..t]);
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            plan.run(&mut b).unwrap();
            ALLOCATIONS.load(Ordering::Relaxed) - before
        };
        run(50); // threads start, lazily made things are made
        assert_eq!([run(50), run(7), run(1), run(50)], [0; 4]);
        assert!(plan.output(0)[0].is_finite());
    });
}
