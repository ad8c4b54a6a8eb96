"""Records what a native CPython makes of the programs in programs/*.py: writes expected.json beside this file.

The libraries must be the image's versions, in a Python near its own (3.15; recorded with 3.13):

    python3.13 -m venv venv
    venv/bin/pip install sympy==1.14.0 mpmath==1.3.0 numpy==2.5.2 networkx==3.7
    venv/bin/python sandbox/corpus/record.py

Each program runs in a process of its own, which knows nothing of the sandbox: what a notebook gives is written down here a
second time, so that the test compares two readings of it. Give names as arguments to see single programs run.
"""
import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
VERSIONS = {"sympy": "1.14.0", "mpmath": "1.3.0", "numpy": "2.5.2", "networkx": "3.7"}

# What 3.15 says in other words than the Python that records.
REWORDED = {
    "errors/math_domain": ("math domain error", "expected a positive input"),
    "errors/unhashable": ("unhashable type: 'list'", "cannot use 'list' as a dict key (unhashable type: 'list')"),
    "errors/unpack_error": ("(expected 2)", "(expected 2, got 3)"),
}
# A library's place, in the message of an ImportError: here, and in the image.
PLACE, IMAGE = r"\(/\S*/site-packages/(\S+)\.py\)", r"(/usr/local/lib/python315.zip/\1.pyc)"

CHILD = r'''
import ast, json, os, sys, types

source, report = open(sys.argv[1], encoding="utf-8").read(), sys.argv[2]
main = types.ModuleType("__main__")
main.__builtins__ = __builtins__
sys.modules["__main__"] = main
sys.argv[1:] = []
value = error = None
try:
    tree = ast.parse(source, "main.py")
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "main.py", "exec"), main.__dict__)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), "main.py", "eval"), main.__dict__)
        sys.stdout.flush()
        value = None if value is None or os.fstat(1).st_size else repr(value)
except BaseException as e:
    if not (isinstance(e, SystemExit) and e.code in (None, 0)):
        line = e.lineno if isinstance(e, SyntaxError) and e.filename == "main.py" else None
        at = e.__traceback__
        while at is not None:
            if at.tb_frame.f_code.co_filename == "main.py":
                line = at.tb_lineno
            at = at.tb_next
        kind = type(e)
        name = kind.__qualname__
        if kind.__module__ not in ("builtins", "__main__"):
            name = kind.__module__ + "." + name
        error = {"kind": name, "message": str(e), "line": line}
        value = None
sys.stdout.flush()
with open(report, "w") as f:
    json.dump({"value": value, "error": error}, f)
'''


def programs():
    """Every program's source by its name, `subject/name`."""
    found = {}
    for path in sorted((HERE / "programs").glob("*.py")):
        for part in path.read_text(encoding="utf-8").split("# ---- ")[1:]:
            name, _, source = part.partition("\n")
            name = f"{path.stem}/{name}"
            if name in found:
                sys.exit(f"{path}: two programs are called {name}")
            found[name] = source
    return found


def record(name, source):
    """What a program printed, its last expression's value where it printed nothing, and its error."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "program").write_text(source, encoding="utf-8")
        environment = {"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0", "NO_COLOR": "1", "OPENBLAS_NUM_THREADS": "1"}
        with open(folder / "stdout", "wb") as out:
            subprocess.run(
                [sys.executable, "-s", "-P", "-X", "utf8", "-c", CHILD, folder / "program", folder / "report"],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.DEVNULL, env=environment, cwd=folder, timeout=120,
            )
        stdout = (folder / "stdout").read_text(encoding="utf-8")
        outcome = {"stdout": stdout, **json.loads((folder / "report").read_text())}
        if error := outcome["error"]:
            error["message"] = re.sub(PLACE, IMAGE, error["message"].replace(*REWORDED.get(name, ("", ""))))
        return {field: what for field, what in outcome.items() if what not in (None, "")}


def main():
    for name, version in VERSIONS.items():
        if __import__(name).__version__ != version:
            sys.exit(f"{name} is {__import__(name).__version__}, not the image's {version}")
    chosen = {n: s for n, s in programs().items() if len(sys.argv) == 1 or n in sys.argv[1:]}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = dict(zip(chosen, pool.map(record, chosen.keys(), chosen.values())))
    text = json.dumps(outcomes, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    if len(sys.argv) > 1:
        print(text, end="")
    else:
        (HERE / "expected.json").write_text(text, encoding="utf-8")


main()
