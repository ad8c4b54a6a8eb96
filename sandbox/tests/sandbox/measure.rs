//! Times, for the README. Run alone on a quiet machine:
//! `cargo test --release -p toolsmith-sandbox measure -- --ignored --nocapture`

use std::time::{Duration, Instant};

use toolsmith_sandbox::{Image, Job, Recipe, Sandbox};

use crate::{image, worker};

fn timed<T>(what: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    let made = what();
    (made, started.elapsed())
}

#[test]
#[ignore = "prints times; asserts nothing about them"]
fn measure() {
    image();
    let (fresh, open) = timed(|| Image::open(&Image::default_cache(), &Recipe::default()).unwrap());
    let built = || Sandbox::builder().image(fresh.clone());
    let (mut python, first) = timed(|| built().build().unwrap());
    println!("check the image {open:?}, load it {first:?}");
    let (_, more) = timed(|| built().build().unwrap());
    println!("a further interpreter {more:?}");
    let (_, process) = timed(|| built().worker(worker()).pool(1).unwrap());
    println!("a worker process {process:?}");
    for (name, source) in [
        ("print(2**100)", "print(2**100)"),
        ("an error", "1 / 0"),
        ("numpy solve", "import numpy as np\nnp.linalg.solve([[2., 1.], [1., 3.]], [3., 5.])"),
        ("sympy cubic", "from sympy import *\nx = symbols('x')\nsolve(x**3 - 7*x + 6, x)"),
        ("sympy 2x2", "from sympy import *\nx, y = symbols('x y')\nsolve([2*x + y - 7, x - y + 1], [x, y])"),
        ("sympy factorint", "from sympy import *\nfactorint(10**15 + 37)"),
        ("a million additions", "x = 0\nfor i in range(10**6): x += i\nx"),
    ] {
        let calls = if name.starts_with("a million") { 5 } else { 200 };
        let mut times: Vec<_> = (0..calls).map(|_| timed(|| python.run(source)).1).collect();
        times.sort();
        let fuel = python.run(source).fuel;
        println!("{name}: p50 {:?}, p99 {:?}, fuel {fuel}", times[calls / 2], times[calls * 99 / 100]);
    }
    for (name, builder) in [("threads", built()), ("processes", built().worker(worker()))] {
        let pool = builder.pool(2).unwrap();
        let calls = 2000;
        let (_, all) = timed(|| {
            (0..calls).for_each(|i| pool.submit(Job::new(i, format!("print({i} ** 3)"))).unwrap());
            (0..calls).for_each(|_| drop(pool.completions().recv().unwrap()));
        });
        println!("2 {name}: {:.0} prints a second", calls as f64 / all.as_secs_f64());
    }
}
