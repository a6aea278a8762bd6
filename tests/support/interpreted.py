"""Triton's interpreter, made bearable: it looks through all of triton.language at every call of a device function, half
of its time; once for each module in a kernel's call is enough."""

from triton.runtime import interpreter


def quicken():
    patch, run = interpreter._patch_lang, interpreter.GridExecutor.__call__

    def call(self, *args, **kwargs):
        seen = {}

        def once(fn):
            key = id(fn.__globals__)
            if key not in seen:
                seen[key] = patch(fn)
            return seen[key]

        interpreter._patch_lang = once
        try:
            return run(self, *args, **kwargs)
        finally:
            interpreter._patch_lang = patch

    interpreter.GridExecutor.__call__ = call
