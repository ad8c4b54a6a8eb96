//! What a program finds of the world, and what it cannot take away from its own report.

use toolsmith_sandbox::Limits;

use crate::{kind, run, sandbox};

#[test]
fn replaced_builtins_do_not_reach_the_report() {
    for source in [
        "import builtins\nbuiltins.str = builtins.repr = builtins.len = builtins.type = None\nraise ValueError('kept')",
        "import posix, os\nposix.write = os.write = posix.fstat = None\nraise ValueError('kept')",
        "import traceback, linecache\ntraceback.format_exception = linecache.cache = None\nraise ValueError('kept')",
        "import sys\nsys.stdout = sys.stderr = sys.__stdout__ = None\nraise ValueError('kept')",
        "import builtins\nbuiltins.__dict__.clear()\n[].nothing",
        "import sys\nsys.__dict__.clear()\n[].nothing",
    ] {
        let o = run(source);
        assert!(["ValueError", "AttributeError"].contains(&kind(&o)), "{source}: {o:?}");
        assert_eq!(o.stderr, "", "{source}");
    }
}

#[test]
fn no_environment() {
    let o = run("import os\nprint(*sorted(os.environ), os.environ.get('PATH'))");
    assert_eq!(
        o.stdout.trim_end(),
        "HOME NO_COLOR PYTHONDONTWRITEBYTECODE PYTHONHASHSEED PYTHONTZPATH PYTHON_COLORS TMPDIR None"
    );
    let o = run("import sys, os\nprint(sys.argv, os.getcwd(), sys.executable, os.path.expanduser('~'))");
    let here = std::env::current_dir().unwrap();
    assert!(o.ok() && !o.stdout.contains(here.to_str().unwrap()), "{o:?}");
}

#[test]
fn what_the_image_lacks_is_not_found() {
    for package in [
        "scipy",
        "pandas",
        "matplotlib",
        "sklearn",
        "regex",
        "PIL",
        "lxml",
        "yaml",
        "statsmodels",
        "nonesuch",
    ] {
        let o = run(&format!("import {package}"));
        assert_eq!(kind(&o), "ModuleNotFoundError", "{o:?}");
        assert_eq!(o.feedback(), format!("ModuleNotFoundError: No module named '{package}'"));
    }
    // No name the interpreter knows as built in may trap when it is imported.
    let o = run(
        "import sys\nbad = []\nfor n in sys.builtin_module_names:\n    try: __import__(n)\n    except BaseException as e: bad.append((n, type(e).__name__))\nprint(bad)",
    );
    assert!(o.ok(), "{o:?}");
    assert!(!o.stdout.contains("SystemError"), "{}", o.stdout);
}

/// Pages that stay resident between calls and pages that are dropped alike.
#[test]
fn a_reset_gives_back_the_very_memory() {
    let mut s = sandbox(&Limits::default());
    let clean = s.digest().unwrap();
    let sympy =
        "from sympy import *\nx = symbols('x')\nprint(solve(x**4 - 5*x**2 + 4, x), integrate(sin(x)**3, x))";
    for source in [
        "1",
        sympy,
        "x = bytearray(b'x' * (60 << 20))",
        "2",
        sympy,
        "import numpy as np\na = np.full((3000, 300), 7.0)\na @ a.T",
        "import gc\nfor o in gc.get_objects():\n    try: o.touched = 1\n    except Exception: pass",
        "1 / 0",
        "import os\nos._exit(3)",
        "3",
    ] {
        s.run(source);
        assert_eq!(s.digest().unwrap(), clean, "after {source}");
    }
    for _ in 0..80 {
        s.run("print(1)");
    }
    assert_eq!(s.digest().unwrap(), clean, "after pages were dropped again");
}
