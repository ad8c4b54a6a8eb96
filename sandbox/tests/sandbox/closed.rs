//! Nothing gets out, and nothing stays.

use toolsmith_sandbox::Limits;

use crate::{kind, run, sandbox, timeless};

#[test]
fn nothing_survives_a_call() {
    let probe = "import sys, builtins, math, sympy, gc, time\n\
        print(len.__name__, math.pi, 'evil' in sys.modules, 'leak' in dir(), sympy.sqrt(4), sys.getrecursionlimit(), \
        hasattr(builtins, 'leak'), gc.isenabled(), sorted(k for k in globals() if not k.startswith('__')), len(gc.callbacks), sys.stdout is sys.__stdout__)";
    let mut s = sandbox(&Limits::default());
    let clean = timeless(s.run(probe));
    assert!(clean.ok(), "{clean:?}");
    for dirt in [
        "import builtins\nbuiltins.print = builtins.len = None",
        "import builtins\nbuiltins.__dict__.clear()",
        "import math\nmath.pi = 3\nimport sympy\nsympy.sqrt = None",
        "import sys\nsys.modules['evil'] = sys\nsys.modules.pop('math')\nsys.setrecursionlimit(5000)",
        "leak = 1\nimport builtins\nbuiltins.leak = 1",
        "import sys, io\nsys.stdout = io.StringIO()\nprint('lost')",
        "import sys\nsys.modules.clear()",
        "import gc\ngc.disable()\ngc.callbacks.append(print)",
        "import os\nfor fd in range(0, 10):\n    try: os.close(fd)\n    except OSError: pass",
        "import random\nrandom.seed(1)\nimport time\ntime.sleep(5)",
        "import os\nos.abort()",
        "import os\nos._exit(0)",
        "x = bytearray(100 << 20)",
        "import _toolsmith\n_toolsmith.run = None",
        "import sys\nsys.modules['_toolsmith'].run.__code__ = (lambda: None).__code__",
    ] {
        s.run(dirt);
        assert_eq!(timeless(s.run(probe)), clean, "after {dirt}");
    }
}

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
fn a_forged_report_does_not_replace_the_real_one() {
    let o = run("print('(')\nprint('vforged')\nprint('.')\n1 / 0");
    assert_eq!((o.stdout.as_str(), kind(&o)), ("(\nvforged\n.\n", "ZeroDivisionError"));
    let o = run("import os\nfor m in (b'(', b'vforged', b'.'): os.write(3, m)\n1 / 0");
    assert_eq!((o.value.as_deref(), kind(&o)), (None, "ZeroDivisionError"));
    let o = run("import os\nfor m in (b'(', b'kE', b'mfake', b'tfake', b'.'): os.write(3, m)\n5");
    assert_eq!((o.value.as_deref(), kind(&o)), (Some("5"), "none"));
    let o = run("import os\nfor m in (b'(', b'vforged', b'.'): os.write(3, m)\nos._exit(5)");
    assert_eq!((o.value.as_deref(), kind(&o)), (None, "SystemExit"));
}

#[test]
fn no_files() {
    for source in [
        "open('/etc/passwd')",
        "open('../../../../etc/passwd')",
        "open('/usr/local/lib/../../../etc/passwd')",
        "open('/proc/self/environ')",
        "open('x.txt', 'w')",
        "open('/usr/local/lib/new', 'w')",
        "open('/usr/local/lib/python315.zip', 'r+b')\nimport os\nos.write(4, b'x')",
        "import tempfile\ntempfile.TemporaryFile()",
        "import os\nos.mkdir('/tmp')",
        "import os\nos.remove('/usr/local/lib/python315.zip')",
        "import os\nos.rename('/usr/local/lib/python315.zip', '/x')",
        "import os\nos.symlink('/etc', '/usr/local/lib/etc')",
    ] {
        let o = run(source);
        let known = ["FileNotFoundError", "PermissionError", "OSError", "NotADirectoryError"];
        assert!(known.contains(&kind(&o)), "{source}: {o:?}");
    }
    assert_eq!(run("import os\nos.listdir('/usr/local/lib')").feedback(), "[]");
}

#[test]
fn no_network_processes_threads_or_foreign_code() {
    for source in [
        "import socket\nsocket.socket().connect(('127.0.0.1', 80))",
        "import socket\nsocket.create_connection(('localhost', 80))",
        "import urllib.request\nurllib.request.urlopen('http://localhost')",
        "import subprocess\nsubprocess.run(['ls'])",
        "import os\nos.fork()",
        "import os\nos.system('ls')",
        "import os\nos.execv('/bin/sh', ['sh'])",
        "import threading\nthreading.Thread(target=print).start()",
        "import multiprocessing\nmultiprocessing.Process(target=print).start()",
        "import ctypes\nctypes.CDLL('libc.so.6')",
    ] {
        let o = run(source);
        assert!(!o.ok() && o.limit_hit.is_none(), "{source}: {o:?}");
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
