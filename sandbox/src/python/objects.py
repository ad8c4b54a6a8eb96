"""Says where the interpreter's objects are: prints the address and number of 32-bit words that hold, in turn, an
object's address and its type's.

Run in an interpreter that is thrown away afterwards.
"""


def _objects():
    import array
    import gc
    import types

    code = types.CodeType
    gc.unfreeze()
    todo = gc.get_objects()
    seen = {id(thing): id(type(thing)) for thing in todo}
    referents = gc.get_referents
    while todo:
        thing = todo.pop()
        found = referents(thing)
        if type(thing) is code:
            # Code has no referents that the collector knows of. The tuples that these make anew are of no interest.
            found += (thing.co_consts, thing.co_names, thing.co_filename, thing.co_name, thing.co_qualname)
            found += (thing.co_linetable, thing.co_exceptiontable)
            found += thing.co_varnames + thing.co_freevars + thing.co_cellvars
        for other in found:
            at = id(other)
            if at not in seen:
                seen[at] = id(type(other))
                todo.append(other)
    return array.array("I", [word for pair in sorted(seen.items()) for word in pair])


_found = _objects()
print(*_found.buffer_info())
