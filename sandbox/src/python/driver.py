"""Runs one program a call and reports how it ended.

Run once, in a fresh interpreter, before the snapshot is taken. It leaves one module in sys.modules, whose run() the host
calls for each program. A program may replace anything it can reach, so what run() needs is bound here beforehand.
"""


def _install():
    import ast
    import atexit
    import builtins
    import linecache
    import posix
    import sys
    import traceback
    import types
    import weakref

    FILE = "main.py"
    # The file that a session's block counts as, so that its functions are told from a later block's.
    BLOCK = "block %d"
    REPORT = 3
    # Of an error that resists being looked at.
    NO_MEMORY, NO_WORDS = (
        [(b"k", kind), (b"m", why), (b"t", f"{kind}: {why}")]
        for kind, why in [
            ("MemoryError", "no memory was left to describe an error"),
            ("SystemError", "the error could not be described"),
        ]
    )
    NO_MEMORY.append((b"o", ""))
    ONLY_AST = ast.PyCF_ONLY_AST
    Expr, Expression = ast.Expr, ast.Expression
    read, write, fstat = posix.read, posix.write, posix.fstat
    compile_, exec_, eval_, type_, str_, repr_ = compile, exec, eval, type, str, repr
    is_, int_, max_, getattr_, kind_of = isinstance, int, max, getattr, issubclass
    len_, bytearray_, range_, join = len, bytearray, range, "".join
    Base, Exit, Memory, Syntax = BaseException, SystemExit, MemoryError, SyntaxError
    # Read from an error and its class without asking them: a program may define both.
    qualname, module = (type.__dict__[name].__get__ for name in ("__qualname__", "__module__"))
    code_of = SystemExit.__dict__["code"].__get__
    traceback_of = BaseException.__dict__["__traceback__"].__get__
    filename, lineno = (SyntaxError.__dict__[name].__get__ for name in ("filename", "lineno"))
    put = BaseException.__setattr__
    settrace, setprofile = sys.settrace, sys.setprofile
    format_exception = traceback.format_exception
    cache = linecache.cache
    run_exits, finalize = atexit._run_exitfuncs, weakref.finalize
    streams = [sys.stdout, sys.stderr]
    # What reaches the host before a program dies is all that is seen of it, so no line waits in a buffer.
    sys.stdout.reconfigure(line_buffering=True)
    main = types.ModuleType("__main__")
    main.__builtins__ = builtins
    originals = [(m.__dict__, dict(m.__dict__)) for m in (builtins, sys)]
    space = main.__dict__
    # Given back before an error is looked at: where memory ran out, the report needs some.
    reserve = [bytearray(1 << 20)]

    def flush():
        # The program's own replacement first, then the real ones.
        for stream in ("stdout", "stderr", *streams):
            try:
                if type_(stream) is str_:
                    stream = getattr_(sys, stream)
                stream.flush()
            except Base:
                pass

    def restock():
        # A session whose variables fill the memory goes on in the little that is left, and may let them go.
        try:
            reserve.append(bytearray_(1 << 20))
        except Memory:
            pass

    def finish():
        try:
            run_exits()
        finally:
            # Its exit handler ends it for good, but there is a next program.
            finalize._shutdown = finalize._registered_with_atexit = False

    def text(of, thing, otherwise=None):
        try:
            # Joining makes a str of any subclass, whose methods would be the program's.
            return join((of(thing),))
        except Base as e:
            return f"<{of.__name__}() failed: {qualname(type_(e))}>" if otherwise is None else otherwise

    def send(tag, words):
        # Piece by piece: a program may have left little memory.
        for at in range_(0, max_(len_(words), 1), 65536):
            write(REPORT, tag + words[at : at + 65536].encode("utf-8", "backslashreplace"))

    def line_of(error, file):
        if kind_of(type_(error), Syntax) and text(filename, error, "") == file:
            return lineno(error)
        line, tb = None, traceback_of(error)
        while tb is not None:
            if tb.tb_frame.f_code.co_filename == file:
                line = tb.tb_lineno
            tb = tb.tb_next
        return line

    def describe(error, file, source, whole):
        """What there is to say of an error, as pairs of a field's tag and a piece of it."""
        reserve.clear()
        kind = type_(error)
        name = text(qualname, kind)
        where = text(module, kind, "__main__")
        if where not in ("builtins", "__main__"):
            name = f"{where}.{name}"
        message = text(str_, error)
        said = [(b"k", name), (b"m", message)]
        line = line_of(error, file)
        if type_(line) is int_:
            said.append((b"l", str_(line)))
        trace = [name, ": ", message] if message else [name]
        if kind_of(kind, Memory):
            said.append((b"o", ""))
            for name in ("__traceback__", "__context__", "__cause__"):
                put(error, name, None)
            if file == FILE:
                space.clear()
        elif whole:
            cache[file] = (len_(source), None, source.splitlines(True), file)
            tb = traceback_of(error)
            while tb is not None and tb.tb_frame.f_code.co_filename != file:
                tb = tb.tb_next
            try:
                trace = [join(format_exception(kind, error, tb)).rstrip("\n")]
            except Base:
                pass
        return said + [(b"t", part) for part in trace]

    fresh = dict(space)

    def reset():
        space.clear()
        space.update(fresh)
        cache.clear()
        atexit._clear()
        reserve[:] = [bytearray(1 << 20)]

    def run():
        trace, source, error, value, file = b"", "", None, None, FILE
        try:
            if not reserve:
                restock()
            request = []
            while part := read(0, max_(fstat(0).st_size, 1)):
                request.append(part)
            flags, _, source = b"".join(request).partition(b"\n")
            del request, part
            trace, _, block = flags.partition(b" ")
            source = source.decode()
            if block != b"0":
                file = BLOCK % int_(block)
                cache[file] = (len_(source), None, source.splitlines(True), file)
            tree = compile_(source, file, "exec", ONLY_AST)
            last = tree.body.pop() if tree.body and is_(tree.body[-1], Expr) else None
            program = compile_(tree, file, "exec")
            if last is not None:
                # The statements before may say `from __future__`, which the expression then follows.
                last = compile_(Expression(last.value), file, "eval", program.co_flags & FUTURES)
            exec_(program, space)
            if last is not None:
                value = eval_(last, space)
                flush()
                if value is not None and not fstat(REPORT).st_size:
                    value = join((repr_(value),))
                else:
                    value = None
        except Exit as e:
            code = code_of(e)
            if not (code is None or code is False or type_(code) is int_ and code == 0):
                error = e
        except Base as e:
            error = e
        try:
            finish()
        except Base as e:
            if error is None:
                error = e
        flush()
        settrace(None)
        setprofile(None)
        for names, original in originals:
            names.clear()
            names.update(original)
        modules.update(own)
        said = []
        if error is not None:
            try:
                said = describe(error, file, source, trace == b"traceback")
            except Base as e:
                said = NO_MEMORY if kind_of(type_(e), Memory) else NO_WORDS
        elif value is not None:
            said.append((b"v", value))
        # Nothing of the program's runs after this, so its report is the last.
        flush()
        write(REPORT, b"(")
        for tag, words in said:
            send(tag, words)
        write(REPORT, b".")

    import __future__

    FUTURES = 0
    for name in __future__.all_feature_names:
        FUTURES |= getattr(__future__, name).compiler_flag
    driver = types.ModuleType("_toolsmith")
    driver.run = run
    driver.reset = reset
    modules = sys.modules
    own = {"_toolsmith": driver, "__main__": main, "sys": sys, "builtins": builtins}
    modules.update(own)
    sys.setrecursionlimit(1000)
    atexit._clear()


_install()
del _install
