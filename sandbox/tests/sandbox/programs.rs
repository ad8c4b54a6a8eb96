//! What a program and a model get to see.

use toolsmith_sandbox::{Limit, Limits};

use crate::{kind, run, sandbox, timeless};

#[test]
fn prints_and_values() {
    let o = run("print(2**100)");
    assert_eq!(o.stdout, "1267650600228229401496703205376\n");
    assert_eq!((o.value.as_deref(), o.stderr.as_str(), o.ok()), (None, "", true));
    for (source, value) in [
        ("2**10", Some("1024")),
        ("x = 3\nx * 2", Some("6")),
        ("x = 3", None),
        ("None", None),
        ("[].append(1)", None),
        ("'a' + \"b\"", Some("'ab'")),
        ("def f(): return 7\nf()", Some("7")),
        ("", None),
        ("# nothing", None),
        ("if True:\n    5", None),
        ("1;2", Some("2")),
    ] {
        let o = run(source);
        assert_eq!((o.value.as_deref(), o.error), (value, None), "{source}");
        assert_eq!(o.stdout, "", "{source}");
    }
    let o = run("print('seen', end='')\n42");
    assert_eq!((o.stdout.as_str(), o.value), ("seen", None));
    assert_eq!(run("import sys\nsys.stdout.write('ab')").feedback(), "ab");
}

#[test]
fn mathematics_is_there() {
    let o = run("from sympy import *\nx = symbols('x')\nprint(solve(x**3 - 7*x + 6, x))");
    assert_eq!(o.feedback(), "[-3, 1, 2]\n");
    let o = run("import numpy as np\nnp.linalg.solve([[2., 1.], [1., 3.]], [3., 5.])");
    assert_eq!(o.feedback(), "array([0.8, 1.4])");
    let o = run("from fractions import Fraction as F\nimport math\nF(1, 3) + F(1, 6), math.comb(40, 20)");
    assert_eq!(o.feedback(), "(Fraction(1, 2), 137846528820)");
    assert_eq!(
        run("import networkx as nx\nnx.shortest_path(nx.path_graph(4), 0, 3)").feedback(),
        "[0, 1, 2, 3]"
    );
    assert_eq!(
        run("import mpmath\nmpmath.mp.dps = 30\nprint(mpmath.sqrt(2))").feedback(),
        "1.41421356237309504880168872421\n"
    );
}

#[test]
fn errors_name_their_kind_message_and_line() {
    for (source, expected, message, line) in [
        ("x = 1\n1 / 0", "ZeroDivisionError", "division by zero", Some(2)),
        ("def f():\n    return y\n\nf()", "NameError", "name 'y' is not defined", Some(2)),
        ("raise ValueError('a b')", "ValueError", "a b", Some(1)),
        ("import sys\nsys.exit(3)", "SystemExit", "3", Some(2)),
        ("assert False", "AssertionError", "", Some(1)),
        ("class E(Exception): pass\nraise E('x')", "E", "x", Some(2)),
        ("import os\nos._exit(4)", "SystemExit", "4", None),
    ] {
        let e = run(source).error.unwrap_or_else(|| panic!("{source} has no error"));
        assert_eq!((e.kind.as_str(), e.message.as_str(), e.line), (expected, message, line), "{source}");
    }
    let e = run("import numpy as np\nnp.linalg.inv([[0., 0.], [0., 0.]])").error.unwrap();
    assert_eq!((e.kind.as_str(), e.line), ("numpy.linalg.LinAlgError", Some(2)));
    let o = run("print('before')\n1 / 0");
    assert_eq!(o.feedback(), "before\nZeroDivisionError: division by zero");
    assert!(run("import sys\nsys.exit()").ok() && run("raise SystemExit(0)").ok());
}

#[test]
fn a_syntax_error_has_its_line() {
    let e = run("x = 1\nprint(x\ny = 2").error.unwrap();
    assert_eq!((e.kind.as_str(), e.line), ("SyntaxError", Some(2)));
    let e = run("def f():\npass").error.unwrap();
    assert_eq!((e.kind.as_str(), e.line), ("IndentationError", Some(2)));
    assert_eq!(kind(&run("a\0b")), "SyntaxError");
}

#[test]
fn a_whole_traceback_on_request() {
    let limits = Limits { traceback: true, ..Limits::default() };
    let source = "def f(n):\n    return 1 / n\n\nf(0)";
    let text = sandbox(&limits).run(source).feedback();
    assert!(text.starts_with("Traceback (most recent call last):\n  File \"main.py\", line 4"), "{text}");
    assert!(text.contains("return 1 / n") && text.ends_with("ZeroDivisionError: division by zero"), "{text}");
    assert!(!text.contains("_toolsmith") && !text.contains("reactor"), "{text}");
    assert_eq!(run(source).feedback(), "ZeroDivisionError: division by zero");
}

#[test]
fn unicode_in_and_out() {
    let o = run("ñ = '日本語 😀'\nprint(ñ, len(ñ), '\\u00e9')");
    assert_eq!(o.stdout, "日本語 😀 5 é\n");
    assert_eq!(run("'😀é'").feedback(), "'😀é'");
    assert_eq!(run("raise ValueError('ß')").feedback(), "ValueError: ß");
    assert_eq!(run("'\\ud800'").feedback(), "'\\ud800'");
    assert_eq!(run("raise ValueError('\\ud800')").feedback(), "ValueError: \\ud800");
    assert_eq!(run("import sys\nsys.stdout.buffer.write(b'\\xff')").stdout, "\u{FFFD}");
}

#[test]
fn long_output_is_cut_in_the_middle() {
    let limits = Limits { output_bytes: 1000, ..Limits::default() };
    let mut s = sandbox(&limits);
    let o = s.run("for i in range(10000): print(i)");
    assert!(o.stdout.starts_with("0\n1\n2\n") && o.stdout.ends_with("9998\n9999\n"));
    let total: usize = (0..10000).map(|i: u32| i.to_string().len() + 1).sum();
    assert_eq!(o.truncated, total - 1000);
    assert!(o.stdout.contains(&format!("[{} bytes left out]", o.truncated)));
    assert_eq!((o.limit_hit, o.ok()), (Some(Limit::Output), true));
    let o = s.run("'x' * 5000");
    assert_eq!((o.truncated, o.limit_hit), (4002, Some(Limit::Output)));
    let o = s.run("raise ValueError('y' * 5000)");
    assert!(o.error.unwrap().message.len() < 1100 && o.truncated > 4000);
    let o = sandbox(&Limits { output_bytes: 1 << 20, ..Limits::default() }).run("print('z' * (3 << 20))");
    assert_eq!(o.truncated, (2 << 20) + 1);
}

#[test]
fn input_fails_at_once_and_exit_handlers_run() {
    assert_eq!(run("input()").feedback(), "EOFError: EOF when reading a line");
    assert_eq!(run("import sys\nsys.stdin.read()").feedback(), "''");
    assert_eq!(run("import atexit\natexit.register(print, 'bye')\nprint('hi')").stdout, "hi\nbye\n");
    assert_eq!(run("import sys\nprint('w', file=sys.stderr)").stderr, "w\n");
}

#[test]
fn the_same_program_is_the_same_everywhere() {
    let programs = [
        "import random\nprint(random.random(), random.randint(0, 10**9))",
        "import time, datetime\nprint(time.time(), time.monotonic(), datetime.datetime.now())",
        "import os, uuid\nprint(os.urandom(8), uuid.uuid4())",
        "import numpy as np\nprint(np.random.rand(3), np.random.default_rng().random())",
        "print({'b', 'a', 'c'}, hash('x'), id(object()), object())",
        "from sympy import *\nprint(factor(symbols('q')**6 - 1))",
        "x = [i for i in range(10000)]\nundefined",
        "while True: pass",
    ];
    let limits = Limits { fuel: 50_000_000, ..Limits::default() };
    let (mut a, mut b) = (sandbox(&limits), sandbox(&limits));
    let first: Vec<_> = programs.iter().map(|p| timeless(a.run(p))).collect();
    for (i, p) in programs.iter().enumerate().rev() {
        for s in [&mut a, &mut b] {
            assert_eq!(timeless(s.run(p)), first[i], "{p}");
        }
    }
    assert!(first.iter().all(|o| o.fuel > 0));
    assert_ne!(first[0].stdout, "");
}
