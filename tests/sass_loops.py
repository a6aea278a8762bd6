"""The loops of a kernel's machine code, and what one turn of each costs, from nvdisasm's listing.

`python tests/sass_loops.py OBJECT [pattern]` prints them for the kernels of an object file whose name has the pattern.

A turn has many ways through its loop: labels of each type, a vector beyond the end. Two are told. The `hot` one is the
shortest of those that do the most work (that take the most reciprocals or exponentials): a whole batch, labels of the
cheapest type. The `worst` one is the longest of all. An inner loop counts as one turn of it; it has an entry of its own.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

LABEL = re.compile(r"^(\.L_x_\d+):")
LINE = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?P<guard>@!?U?P\w+\s+)?(?P<name>[A-Z][A-Z0-9_.]*)(?P<rest>[^;]*)")
TARGET = re.compile(r"\.L_x_\d+")
WORK = ("MUFU.RCP", "MUFU.EX2")  # what every pixel takes: 1 / (1 + e), or an exponential a class


@dataclass
class Loop:
    depth: int  # 0: in no other loop
    hot: int  # instructions of the shortest of the ways that do the most work
    worst: int  # of the longest way
    work: Counter  # MUFU.RCP, MUFU.EX2 and others on the hot way
    size: int  # bytes of code, all ways
    names: Counter  # opcodes of all its code

    def pixels(self, of: str = "MUFU.RCP") -> int:
        return self.work[of]

    @property
    def stores(self) -> bool:
        return any(name.startswith("STG") for name in self.names)


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
    ordered = sorted(bodies.items(), key=lambda item: len(item[1]))
    result = []
    for head, body in ordered:
        inner = [(h, b) for h, b in ordered if h != head and h in body and len(b) < len(body)]
        hot, worst, work = _ways(graph, head, body, inner)
        names = Counter(name for i in body for name in graph[i].names)
        depth = sum(head in b and len(b) > len(body) for h, b in ordered if h != head)
        result.append(Loop(depth, hot, worst, work, 16 * names.total(), names))
    return result


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


def _ways(graph: list[Block], head: int, body: set[int], inner: list) -> tuple[int, int, Counter]:
    """(instructions of the hot way, of the longest one, work on the hot way) of one turn, inner loops taken once."""
    heads = {h for h, _ in inner} | {head}
    order: list[int] = []
    seen: set[int] = set()
    todo = [(head, False)]
    while todo:
        node, done = todo.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            todo.append((node, True))
            todo += [(j, False) for j in graph[node].after if j in body and j != head]
    best: dict[int, tuple[int, int, Counter]] = {}
    longest: dict[int, int] = {}
    for node in order:  # the last ones first
        names = graph[node].names
        own = Counter(name for name in names if name.startswith("MUFU"))
        nexts = [j for j in graph[node].after if j in best and (j not in heads or j not in _above(inner, node, j))]
        closes = head in graph[node].after
        ways = [best[j] for j in nexts] + ([(0, 0, Counter())] if closes or not nexts else [])
        if not closes and not nexts:
            ways = [(-(10**9), 0, Counter())]  # leaves the loop, or goes on with an inner one's next turn
        way = max(ways, key=lambda w: (w[0], -w[1]))
        work = sum(own[name] for name in WORK)
        best[node] = (way[0] + work, way[1] + len(names), way[2] + own)
        longest[node] = len(names) + max([longest[j] for j in nexts], default=0)
    return best[head][1], longest[head], best[head][2]


def _above(inner: list, node: int, target: int) -> set[int]:
    """The heads of inner loops that `node` closes: a step to one of them is a next turn, not a way on."""
    return {h for h, b in inner if h == target and node in b}


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
    archs = sys.argv[3:] or ["sm_90"]
    for arch in archs:
        code = listing(tool, Path(sys.argv[1]), arch)
        for name, symbol in zip(sass.demangle(list(code)), code):
            if re.search(sys.argv[2] if len(sys.argv) > 2 else "", name):
                print(f"{arch} {name}: {16 * sum(bool(LINE.match(line)) for line in code[symbol])} bytes")
                for loop in loops(code[symbol]):
                    if loop.work:
                        each = loop.hot / max(loop.work["MUFU.RCP"], 1)
                        kind = ("stores " if loop.stores else "") + (
                            "LDS " if any(n.startswith("LDS") for n in loop.names) else ""
                        )
                        print(
                            f"  depth {loop.depth} hot {loop.hot} worst {loop.worst} a pixel {each:.1f} {dict(loop.work)} {loop.size} bytes {kind}"
                        )
