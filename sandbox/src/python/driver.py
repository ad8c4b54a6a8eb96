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

    FILE = "main.py"
    # The file that a session's block counts as, so that its functions are told from a later block's.
    BLOCK = "block %d"
    REPORT = 3
    ONLY_AST = ast.PyCF_ONLY_AST
    Expr, Expression = ast.Expr, ast.Expression
    read, write, fstat = posix.read, posix.write, posix.fstat
    compile_, exec_, eval_, type_, str_, repr_ = compile, exec, eval, type, str, repr
    is_, int_, max_, getattr_ = isinstance, int, max, getattr
    len_, bytearray_ = len, bytearray
    Base, Exit, Memory = BaseException, SystemExit, MemoryError
    format_exception = traceback.format_exception
    cache = linecache.cache
    finish = atexit._run_exitfuncs
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

    def text(of, thing):
        try:
            return of(thing)
        except Base as e:
            return f"<{of.__name__}() failed: {type_(e).__name__}>"

    def send(tag, words):
        write(REPORT, tag + words.encode("utf-8", "backslashreplace"))

    def line_of(error, file):
        if is_(error, SyntaxError) and error.filename == file:
            return error.lineno
        line, tb = None, error.__traceback__
        while tb is not None:
            if tb.tb_frame.f_code.co_filename == file:
                line = tb.tb_lineno
            tb = tb.tb_next
        return line

    def report(error, file, source, whole):
        reserve.clear()
        kind = type_(error)
        name = kind.__qualname__
        if kind.__module__ not in ("builtins", "__main__"):
            name = f"{kind.__module__}.{name}"
        message = text(str_, error)
        line = line_of(error, file)
        trace = f"{name}: {message}" if message else name
        if is_(error, Memory):
            error.__traceback__ = error.__context__ = error.__cause__ = None
            if file == FILE:
                space.clear()
        elif whole:
            cache[file] = (len(source), None, source.splitlines(True), file)
            tb = error.__traceback__
            while tb is not None and tb.tb_frame.f_code.co_filename != file:
                tb = tb.tb_next
            try:
                trace = "".join(format_exception(kind, error, tb)).rstrip("\n")
            except Base:
                pass
        send(b"k", name)
        send(b"m", message)
        send(b"t", trace)
        if line is not None:
            send(b"l", str_(line))

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
                reserve.append(bytearray_(1 << 20))
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
                if value is not None and not fstat(1).st_size:
                    value = repr_(value)
                else:
                    value = None
        except Exit as e:
            code = e.code
            if code is not None and not (is_(code, int_) and code == 0):
                error = e
        except Base as e:
            error = e
        try:
            finish()
        except Base as e:
            error = error or e
        flush()
        for names, original in originals:
            names.clear()
            names.update(original)
        modules.update(own)
        write(REPORT, b"(")
        if error is not None:
            report(error, file, source, trace == b"traceback")
        elif value is not None:
            send(b"v", value)
        flush()
        write(REPORT, b".")

    import __future__

    FUTURES = 0
    for name in __future__.all_feature_names:
        FUTURES |= getattr(__future__, name).compiler_flag
    driver = types.ModuleType("_toolsmith")
    driver.run = run
    driver.reset = reset
    modules, own = sys.modules, {"_toolsmith": driver, "__main__": main}
    modules.update(own)
    sys.setrecursionlimit(1000)
    atexit._clear()


_install()
del _install
