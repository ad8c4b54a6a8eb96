import gc, json, os, sys
import sympy, numpy, networkx, mpmath

# The programs get neither end of these pipes.
lines, ends = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
nothing = os.open(os.devnull, os.O_RDWR)
for descriptor in range(3):
    os.dup2(nothing, descriptor)


def run(source):
    try:
        exec(compile(source, "main.py", "exec"), {"__name__": "__main__"})
    except BaseException:
        pass


def answer():
    print(file=ends, flush=True)


for source in json.loads(lines.readline()):
    run(source)
gc.collect()
gc.freeze()
answer()
for line in lines:
    child = os.fork()
    if not child:
        run(json.loads(line))
        os._exit(0)
    os.waitpid(child, 0)
    answer()
