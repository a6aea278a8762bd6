"""The loops of a kernel's machine code, and what one turn of each costs, from nvdisasm's listing.

`python tests/support/sass_loops.py OBJECT [pattern] [sm_90 …]` prints them for the kernels of an object file.

A turn has many ways through its loop: phases, labels of each type, a vector beyond the end. `Loop.way` finds the one
that does the most work (exponentials: a whole batch of pixels) with so many accesses to memory as it must have, and of
those the shortest one: labels of the cheapest type. `worst` is the longest way of all.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

LABEL = re.compile(r"^(\.L_x_\d+):")
LINE = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?P<guard>@!?U?P\w+\s+)?(?P<name>[A-Z][A-Z0-9_.]*)(?P<rest>[^;]*)")
TARGET = re.compile(r"\.L_x_\d+")
WORK = ("MUFU.EX2",)  # one a pixel of a sigmoid, one a class and pixel of a softmax (more in what is no fast loop)


@dataclass
class Way:
    """Instructions of a way through a loop, by opcode."""

    names: Counter
    of: int = 0  # exponentials
    asked: int = 0  # accesses that were asked for

    @property
    def length(self) -> float:
        return self.names.total()


@dataclass
class Loop:
    graph: list[Block]
    head: int
    body: set[int]
    inner: list[Loop] = field(default_factory=list)  # directly nested ones
    depth: int = 0  # 0: in no other loop

    @property
    def names(self) -> Counter:
        """Opcodes of all its code."""
        return Counter(name for i in self.body for name in self.graph[i].names)

    @property
    def size(self) -> int:
        """Bytes of code, all ways."""
        return 16 * self.names.total()

    def way(
        self,
        asked: str = "LDG",
        least: int = 0,
        without: str = "(?!)",
        pixels: int = 0,
        work: tuple[str, ...] = WORK,
    ) -> Way | None:
        """The way that does the most `work` with at least so many of the accesses `asked`, of those the shortest,
        without opcodes that match `without`; None if there is none. An inner loop that takes fewer than `pixels` is
        turned as often as they need."""
        found: dict[int, dict[int, Way]] = {}  # by block: the best way for each number of accesses, up to `least`
        for node in self._order():  # the last ones first
            own = self._own(node, asked, least, without, pixels, work)
            exits = self._exits(node)
            ways = [way for j in exits if j != self.head for way in found.get(j, {}).values()]
            if self.head in exits:
                ways.append(Way(Counter()))
            best: dict[int, Way] = {}
            for first in own:
                for then in ways:
                    total = min(first.asked + then.asked, least)
                    before = best.get(total)
                    key = (first.of + then.of, -first.length - then.length)
                    if before is None or key > (before.of, -before.length):
                        best[total] = Way(first.names + then.names, key[0], total)
            found[node] = best
        return found.get(self.head, {}).get(least)

    def _own(self, node: int, asked: str, least: int, without: str, pixels: int, work: tuple[str, ...]) -> list[Way]:
        child = self._child(node)
        if child is None:
            names = self.graph[node].names
            if any(re.match(without, name) for name in names):
                return []
            return [Way(Counter(names), sum(n in work for n in names), sum(bool(re.match(asked, n)) for n in names))]
        ways = [way for way in (child.way(asked, n, without, pixels, work) for n in range(least + 1)) if way]
        if pixels:
            turns = [pixels / way.of if 0 < way.of < pixels else 1 for way in ways]
            ways = [
                Way(Counter({name: t * n for name, n in w.names.items()}), round(t * w.of), round(t * w.asked))
                for w, t in zip(ways, turns)
            ]
        return ways

    @property
    def worst(self) -> int:
        """Instructions of the longest way, inner loops taken once."""
        longest: dict[int, int] = {}
        for node in self._order():
            child = self._child(node)
            own = child.worst if child else len(self.graph[node].names)
            longest[node] = own + max([longest[j] for j in self._exits(node) if j in longest], default=0)
        return longest[self.head]

    def _child(self, node: int) -> Loop | None:
        return next((child for child in self.inner if child.head == node), None)

    def _exits(self, node: int) -> list[int]:
        """Where a block, or the inner loop that begins with it, goes on in this loop."""
        child = self._child(node)
        blocks = child.body if child else {node}
        return [
            j for i in blocks for j in self.graph[i].after if j in self.body and (j not in blocks or j == self.head)
        ]

    def _order(self) -> list[int]:
        order: list[int] = []
        seen: set[int] = set()
        todo = [(self.head, False)]
        while todo:
            node, done = todo.pop()
            if done:
                order.append(node)
            elif node not in seen:
                seen.add(node)
                todo.append((node, True))
                todo += [(j, False) for j in self._exits(node) if j != self.head]
        return order


@dataclass
class Block:
    names: list[str]
    after: list[int]


def blocks(lines: list[str]) -> list[Block]:
    """The blocks of one function, the first one first."""
    starts: dict[str, int] = {}
    found: list[tuple[list[str], list[str], bool]] = [([], [], True)]  # opcodes, targets, falls through
    for line in lines:
        if label := LABEL.match(line):
            if found[-1][0]:
                found.append(([], [], True))
            starts[label[1]] = len(found) - 1
            continue
        match = LINE.match(line)
        if not match:
            continue
        names, name, rest = found[-1][0], match["name"], match["rest"]
        names.append(name)
        kind = name.split(".")[0]
        jumps = kind in ("BRA", "BRX", "JMP", "JMX")
        leaves = kind in ("EXIT", "RET")
        if not jumps and not leaves:
            continue
        # A branch is also conditional by a predicate among its operands.
        always = not match["guard"] and not re.search(r"\bU?P\d\b", rest) and ".DIV" not in name and ".CONV" not in name
        targets = TARGET.findall(rest) if jumps else []
        found[-1] = (names, targets, not always)
        found.append(([], [], True))
    result = []
    for i, (names, targets, falls) in enumerate(found):
        after = [starts[t] for t in targets if t in starts]
        if falls and i + 1 < len(found):
            after.append(i + 1)
        result.append(Block(names, after))
    return result


def loops(lines: list[str]) -> list[Loop]:
    graph = blocks(lines)
    before: list[set[int]] = [set() for _ in graph]
    for i, block in enumerate(graph):
        for j in block.after:
            before[j].add(i)
    bodies: dict[int, set[int]] = {}
    for tail, head in _back_edges(graph):
        body, todo = bodies.setdefault(head, {head}), [tail]
        while todo:
            node = todo.pop()
            if node not in body:
                body.add(node)
                todo += before[node]
    found = [Loop(graph, head, body) for head, body in sorted(bodies.items(), key=lambda item: len(item[1]))]
    for i, loop in enumerate(found):
        around = [o for o in found[i + 1 :] if loop.head in o.body and loop.head != o.head]
        loop.depth = len(around)
        if around:
            around[0].inner.append(loop)
    return found


def _back_edges(graph: list[Block]) -> list[tuple[int, int]]:
    found, state = [], [0] * len(graph)  # 1: on the way, 2: done
    for root in range(len(graph)):
        todo = [(root, iter(graph[root].after))] if not state[root] else []
        state[root] = state[root] or 1
        while todo:
            node, rest = todo[-1]
            for j in rest:
                if state[j] == 1:
                    found.append((node, j))
                elif state[j] == 0:
                    state[j] = 1
                    todo.append((j, iter(graph[j].after)))
                    break
            else:
                state[node] = 2
                todo.pop()
    return found


def functions(text: str) -> dict[str, list[str]]:
    """Lines by symbol."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        if line.startswith(".text."):
            current = found.setdefault(line[len(".text.") :].rstrip(":"), [])
        else:
            current.append(line)
    return found


def listing(cuobjdump: str, path: Path, arch: str) -> dict[str, list[str]]:
    """The machine code of every kernel in an object, for one architecture."""
    tools = Path(cuobjdump).parent
    nvdisasm = shutil.which("nvdisasm", path=str(tools)) or "nvdisasm"
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([cuobjdump, "-xelf", arch, Path(path).resolve()], cwd=folder, check=True, capture_output=True)
        code = {}
        for cubin in sorted(Path(folder).glob("*.cubin")):
            done = subprocess.run([nvdisasm, "-c", cubin], check=True, capture_output=True, text=True)
            code.update(functions(done.stdout))
    return code


if __name__ == "__main__":
    import sass

    tool = sass.cuobjdump()
    pattern = re.compile(sys.argv[2] if len(sys.argv) > 2 else "")
    for arch in sys.argv[3:] or ["sm_90"]:
        code = listing(tool, Path(sys.argv[1]), arch)
        for name, symbol in zip(sass.demangle(list(code)), code):
            if not pattern.search(name):
                continue
            print(f"{arch} {name}: {16 * sum(bool(LINE.match(line)) for line in code[symbol])} bytes")
            for loop in loops(code[symbol]):
                way = loop.way()
                if way and way.of:
                    accesses = {n: c for n, c in loop.names.items() if re.match("LDG|STG|LDS|STS", n)}
                    words = f"{way.length:g} for {way.of}; worst {loop.worst}, {loop.size} bytes"
                    print(f"  depth {loop.depth}: {words}, {accesses}")
