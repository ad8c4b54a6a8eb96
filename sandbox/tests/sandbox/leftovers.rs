//! Nothing that a program does outlives its call: not in its sandbox, nor from one session to another.

use toolsmith_sandbox::{Limits, Session};

use crate::{kind, sandbox, timeless};

/// Looks at everything that [`DIRT`] touches.
const PROBE: &str = r#"
import atexit, builtins, codecs, collections, contextvars, copyreg, decimal, fractions, functools, gc, json, linecache
import locale, logging, math, mpmath, numbers, numpy as np, os, random, re, signal, string, sympy, sys, threading, time
import typing, warnings, weakref
q = sympy.Symbol('q')
print(len.__name__, print.__name__, __import__.__name__, hasattr(builtins, 'leak'), dir(), len(sys.modules), 'evil' in sys.modules)
print(math.pi, (5).bit_length(), hasattr(str, 'evil'), fractions.Fraction(1, 2) + 1, collections.Counter('aab').most_common(1))
print(sympy.sqrt(4), sympy.S.Half, sympy.Symbol('x').is_positive, sympy.sin(q).diff(q), sympy.srepr(sympy.Add(q, q)))
print(sympy.core.cache.cacheit is not None, sympy.core.parameters.global_parameters.evaluate)
print(np.geterr(), np.get_printoptions()['precision'], np.random.rand(), np.add(1, 2), np.random.default_rng().random())
print(mpmath.mp.dps, decimal.getcontext(), decimal.DefaultContext.prec, random.random(), time.time(), os.urandom(3))
print(len(warnings.filters), locale.setlocale(locale.LC_ALL), logging.root.level, logging.root.handlers, logging.root.manager.disable)
print(sys.getrecursionlimit(), sys.get_int_max_str_digits(), sys.gettrace(), sys.getprofile(), sys.excepthook.__name__)
print(sys.displayhook.__name__, sys.unraisablehook.__name__, len(sys.meta_path), len(sys.path_hooks), sys.path, sys.getswitchinterval())
print(gc.isenabled(), gc.get_threshold(), gc.callbacks, gc.get_count(), gc.get_freeze_count(), gc.get_debug(), len(gc.garbage))
print(signal.getsignal(signal.SIGINT).__name__, atexit._ncallbacks(), sorted(os.environ.items()), os.getcwd(), threading.active_count())
print(isinstance('', numbers.Number), json.dumps({'a': 1}), string.ascii_lowercase, re.sub('a', 'b', 'aa'), len(linecache.cache))
print(sys.monitoring.get_tool(1), len(int.__subclasses__()), len(weakref.finalize._registry), sys.stdout is sys.__stdout__)
print(len(contextvars.copy_context()), len(copyreg.dispatch_table), sys.stdout.encoding, sys.stdout.line_buffering)
try: codecs.lookup('evil')
except LookupError as e: print(e)
try: codecs.lookup_error('evil')
except LookupError as e: print(e)
open('/usr/local/lib/python315.zip', 'rb').fileno(), id(object())
"#;

pub const DIRT: &[&str] = &[
    "import builtins\nbuiltins.print = builtins.len = None",
    "import builtins\nbuiltins.__dict__.clear()",
    "import builtins\nbuiltins.__import__ = lambda *a, **k: None\nbuiltins.__build_class__ = None",
    "import math\nmath.pi = 3\nmath.sqrt = None",
    "leak = 1\nimport builtins\nbuiltins.leak = 1",
    // The dict behind a builtin type's read-only view.
    "import gc\ngc.get_referents(int.__dict__)[0]['bit_length'] = lambda self: 'evil'\ngc.get_referents(str.__dict__)[0]['evil'] = 1",
    "import gc\nfor t in (object, type, dict, list, str, int): gc.get_referents(t.__dict__)[0].clear()",
    "class I(int): pass\nclass J(I): pass\nx = J()\nx.me = x",
    "import sympy\nsympy.sqrt = None\nsympy.S.Half = 3\nsympy.core.add.Add.flatten = None",
    "from sympy import *\nx = symbols('x', positive=True)\nfrom sympy.core.cache import clear_cache\nclear_cache()\nsolve(x**2 - 2, x)",
    "from sympy.core.parameters import global_parameters as g\ng.evaluate = False\ng.distribute = False",
    "from sympy import *\ninit_printing()\nSymbol.is_positive = True\nq = Symbol('q', positive=True)\nsin.fdiff = None",
    "import numpy as np\nnp.seterr(all='raise')\nnp.set_printoptions(precision=2)\nnp.random.seed(7)\nnp.add = None",
    "import numpy as np\nnp.random.rand(1000)\nnp.zeros(3).flags.writeable = False\nnp.seterrcall(print)",
    "import mpmath, decimal\nmpmath.mp.dps = 99\ndecimal.getcontext().prec = 3\ndecimal.DefaultContext.prec = 2",
    "import decimal\nc = decimal.Context(prec=5, traps=[])\ndecimal.setcontext(c)",
    "import random, time\nrandom.seed(1)\ntime.sleep(5)",
    "import warnings\nwarnings.simplefilter('error')\nwarnings.showwarning = None\nwarnings.filters.insert(0, None)",
    "import locale\nfor name in ('C', 'C.UTF-8', 'POSIX'):\n    try: locale.setlocale(locale.LC_ALL, name)\n    except locale.Error: pass",
    "import logging\nlogging.basicConfig(level=1)\nlogging.disable(50)\nlogging.root.addHandler(logging.NullHandler())",
    "import codecs\ncodecs.register(lambda name: codecs.lookup('utf-8') if name == 'evil' else None)\n'x'.encode('evil')\ncodecs.register_error('evil', print)",
    "import sys\nsys.setrecursionlimit(5000)\nsys.set_int_max_str_digits(0)\nsys.setswitchinterval(9)",
    "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)",
    "import sys\nsys.excepthook = sys.displayhook = sys.unraisablehook = print",
    "import sys\nsys.meta_path.clear()\nsys.path_hooks.clear()\nsys.path.clear()\nsys.path_importer_cache.clear()",
    "import sys\nsys.modules['evil'] = sys\nsys.modules.pop('math')",
    "import sys\nsys.modules.clear()",
    "import sys\nsys.__dict__.clear()",
    "import sys, io\nsys.stdout = io.StringIO()\nprint('lost')",
    "import sys\nsys.stdout.reconfigure(encoding='ascii', line_buffering=False)\nsys.stdout.write('waiting')",
    "import sys\nsys.stdout.close()\nsys.stdin.close()\nsys.stderr.close()",
    "import sys\nsys.monitoring.use_tool_id(1, 'x')\nsys.monitoring.set_events(1, 1)",
    "import sys\nsys.addaudithook(lambda *a: None)",
    "import gc\ngc.disable()\ngc.set_threshold(1)\ngc.callbacks.append(print)\ngc.set_debug(gc.DEBUG_SAVEALL)",
    "import gc\ngc.unfreeze()\ngc.collect()",
    "import gc\nfor o in gc.get_objects():\n    try: o.touched = 1\n    except Exception: pass",
    "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)",
    "import atexit\natexit.register(len, '')\natexit._clear()",
    "import os\nos.environ['LEAK'] = '1'\nos.environ.pop('HOME')\nos.putenv('X', 'y')",
    "import os\nfor fd in range(0, 64):\n    try: os.close(fd)\n    except OSError: pass",
    "held = [open('/usr/local/lib/python315.zip', 'rb') for _ in range(50)]\nheld[3].read(1 << 20)",
    "import faulthandler\nfaulthandler.enable()",
    "import numbers, collections.abc\nnumbers.Number.register(str)\ncollections.abc.Sized.register(int)",
    "import json, fractions, collections, string, re\njson.encoder.c_make_encoder = None\njson.dumps = None\nfractions.Fraction.__add__ = None\ncollections.Counter.most_common = None\nstring.ascii_lowercase = ''\nre.sub = None",
    "import functools, re, linecache, typing\nre.purge()\nlinecache.clearcache()\nlinecache.cache['main.py'] = (1, None, ['evil'], 'main.py')\nfor f in typing._cleanups: f()",
    "import copyreg, contextvars, weakref, threading\ncopyreg.pickle(complex, print)\nv = contextvars.ContextVar('v')\nv.set(1)\nclass A: pass\na = A()\nweakref.finalize(a, print)\nthreading.excepthook = print\nthreading.local().x = 1",
    "import os\nos.abort()",
    "import os\nos._exit(0)",
    "while True: pass",
    "x = bytearray(100 << 20)",
    "x = []\nwhile True: x.append(bytes(1 << 20))",
    "import _toolsmith\n_toolsmith.run = _toolsmith.reset = None",
    "import sys\nsys.modules['_toolsmith'].run.__code__ = (lambda: None).__code__",
    "import sys\nrun = sys.modules['_toolsmith'].run\nfor cell in run.__closure__: cell.cell_contents = None",
    "import sys\nf = sys._getframe()\nwhile f.f_back: f = f.f_back\nf.f_globals.clear()",
    "import importlib, sys\nfor name in list(sys.modules):\n    if name.startswith('sympy'): del sys.modules[name]\nimport sympy.core.symbol",
];

#[test]
fn nothing_survives_a_call() {
    let limits = Limits { fuel: 300_000_000, memory_mb: 256, ..Limits::default() };
    let mut s = sandbox(&limits);
    let digest = s.digest().unwrap();
    let clean = timeless(s.run(PROBE));
    assert!(clean.ok() && clean.stderr.is_empty(), "{clean:?}");
    let (mut dirty, mut second) = (Session::default(), Session::default());
    assert!(timeless(s.run_in(&mut second, "x = 1")).ok());
    let parked = second.clone();
    let second_clean = timeless(s.run_in(&mut second, PROBE));
    for (i, dirt) in DIRT.iter().enumerate() {
        match i % 2 {
            0 => drop(s.run(dirt)),
            _ => drop(s.run_in(&mut dirty, dirt)),
        }
        assert_eq!(s.digest().unwrap(), digest, "after {dirt}");
        assert_eq!(timeless(s.run(PROBE)), clean, "after {dirt}");
        if i % 4 == 1 {
            assert_eq!(timeless(s.run_in(&mut parked.clone(), PROBE)), second_clean, "after {dirt}");
        }
    }
    assert_eq!(s.digest().unwrap(), digest);
}

/// A session keeps what its blocks did to it, but no block can take from the next the means to run and to report.
#[test]
fn a_session_survives_its_blocks() {
    let mut s = sandbox(&Limits { fuel: 300_000_000, ..Limits::default() });
    for dirt in [
        "import os\nfor fd in range(64):\n    try: os.close(fd)\n    except OSError: pass",
        "import builtins\nbuiltins.__dict__.clear()",
        "import sys\nsys.modules.clear()",
        "import sys\nsys.stdout = sys.stderr = sys.stdin = None",
        "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: 1 / 0)",
        "import sys\nsys.setrecursionlimit(50)\nsys.set_int_max_str_digits(640)",
        "import gc\ngc.disable()\ngc.callbacks.append(print)",
        "import atexit\natexit.register(lambda: 1 / 0)",
        "import linecache, traceback\nlinecache.cache = traceback.format_exception = None",
        "globals().clear()",
        "import os\nos._exit(3)",
        "import os\nos.abort()",
        "while True: pass",
        "x = []\nwhile True: x.append(bytes(1 << 20))",
    ] {
        let mut session = s.session();
        s.run_in(&mut session, "y = 6");
        s.run_in(&mut session, dirt);
        let o = s.run_in(&mut session, "y = 6\n[y * 7, None]");
        assert_eq!((o.value.as_deref(), o.ok()), (Some("[42, None]"), true), "after {dirt}: {o:?}");
        let o = s.run_in(&mut session, "y.nothing");
        assert_eq!(kind(&o), "AttributeError", "after {dirt}: {o:?}");
    }
}
