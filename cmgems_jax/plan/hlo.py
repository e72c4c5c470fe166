"""What the text of a compiled program says: what runs how often, in which part of the step.

XLA prints a program as computations of instructions. On TPUs its compiler notes the
cycles that it expects of most of them; on GPUs they follow here from the bytes and the
operations of each.
"""

import dataclasses
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

PARTS = ("attention", "feed-forward", "head", "masking", "dropout", "optimizer", "rest")

_ITEM_BYTES = {"pred": 1, "s4": 1, "u4": 1, "c64": 8, "token": 0, "opaque": 0}
_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_MOVES_NOTHING = {"tuple", "get-tuple-element", "parameter", "bitcast", "constant", "while"}
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?)\s([a-z][a-z0-9\-]*)\((.*)$")
_SHAPE = re.compile(r"\b([a-z]+[0-9]*[a-z0-9]*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a program."""

    name: str
    result: str  # its type as text: bf16[8,512]{1,0}, or a tuple
    opcode: str
    rest: str  # operands and attributes

    @property
    def op_name(self) -> str:
        """Where in the traced function it comes from."""
        match = re.search(r'op_name="([^"]*)"', self.rest)
        return match.group(1) if match else ""

    @property
    def cycles(self) -> int:
        """What a TPU's compiler expects of it; 0 where it says nothing."""
        match = re.search(r'"estimated_cycles":"(\d+)"', self.rest)
        return int(match.group(1)) if match else 0

    @property
    def operands(self) -> list[str]:
        """Names of its operands."""
        depth, end = 1, len(self.rest)
        for index, letter in enumerate(self.rest):
            depth += {"(": 1, ")": -1}.get(letter, 0)
            if not depth:
                end = index
                break
        return re.findall(r"%([\w.\-]+)", self.rest[:end])

    def called(self, attribute: str) -> list[str]:
        """Returns the computations that an attribute names."""
        match = re.search(rf"\b{attribute}=(\{{[^}}]*\}}|%?[\w.\-]+)", self.rest)
        return re.findall(r"[\w.\-]+", match.group(1)) if match else []


class Program:
    """A program's computations, in order of what runs."""

    def __init__(self, text: str) -> None:
        """Reads the text of `compiled.as_text()`."""
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ""
        lines: list[Instruction] = []
        for line in text.splitlines():
            if header := _HEADER.match(line):
                lines = self.computations.setdefault(header.group(2), [])
                self.entry = header.group(2) if header.group(1) else self.entry
            elif match := _LINE.match(line):
                lines.append(Instruction(*match.groups()))
        self.results = {one.name: one.result for one in self._all()}

    def _all(self) -> Iterator[Instruction]:
        """Yields every instruction, those inside of fusions too."""
        for lines in self.computations.values():
            yield from lines

    def executed(self) -> list[tuple[Instruction, int]]:
        """Returns each instruction that runs, and how often.

        A loop's body counts as often as its condition says. Of the branches of a
        conditional the one with the most cycles counts; a fusion is one instruction.
        """
        return self._executed(self.entry)

    def _executed(self, name: str) -> list[tuple[Instruction, int]]:
        """`executed` of one computation."""
        run = []
        for one in self.computations.get(name, []):
            run.append((one, 1))
            if one.opcode == "while":
                trips = self._trips(one)
                body = self._executed(one.called("body")[0])
                run += [(inner, times * trips) for inner, times in body]
            elif one.opcode == "conditional":
                names = one.called("branch_computations") or [
                    *one.called("true_computation"),
                    *one.called("false_computation"),
                ]
                branches = [self._executed(branch) for branch in names]
                run += max(branches, key=lambda branch: (_cycles(branch), len(branch)))
            elif one.opcode in ("call", "async-start"):
                for inner in one.called("to_apply") or one.called("calls"):
                    run += self._executed(inner)
        return run

    def _trips(self, loop: Instruction) -> int:
        """Returns how often a loop runs: as noted, or the bound in its condition."""
        if noted := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
            return int(noted.group(1))
        condition = self.computations[loop.called("condition")[0]]
        bounds = [
            int(one.rest.partition(")")[0])
            for one in condition
            if one.opcode == "constant" and one.result.startswith("s32[]")
        ]
        return max(bounds, default=1)

    def cycles(self) -> dict[str, int] | None:
        """Returns a TPU's cycles by part and in `total`; None where none are noted."""
        cycles = self._by_part(lambda one: one.cycles)
        return {name: round(value) for name, value in cycles.items()} if cycles["total"] else None

    def seconds(self, flops: float, bytes_per_s: float) -> dict[str, float]:
        """Returns seconds by part and in `total`, each instruction at the rate that bounds it.

        Args:
          flops: operations a second of matrix products.
          bytes_per_s: of the device's memory.
        """
        return self._by_part(
            lambda one: max(self.operations(one) / flops, self._bytes(one) / bytes_per_s)
        )

    def _by_part(self, cost: Callable[[Instruction], float]) -> dict[str, float]:
        """Returns the sums of a cost."""
        sums = dict.fromkeys((*PARTS, "total"), 0.0)
        for one, times in self.executed():
            if value := times * cost(one):
                sums[part_of(one.op_name)] += value
                sums["total"] += value
        return sums

    def _bytes(self, one: Instruction) -> int:
        """Returns what an instruction reads and writes."""
        if one.opcode in _MOVES_NOTHING or one.opcode.endswith("-done"):
            return 0
        operands = (num_bytes(self.results.get(name, "")) for name in one.operands)
        return num_bytes(one.result) + sum(operands)

    def operations(self, one: Instruction) -> float:
        """Returns the operations of the matrix products of an instruction, a fusion's too."""
        if one.opcode == "fusion":
            inside = self.computations.get(one.called("calls")[0], [])
            return sum(self.operations(inner) for inner in inside)
        if one.opcode not in ("dot", "custom-call"):
            return 0
        shapes = [dims for _, dims in shapes_of(self.results.get((one.operands or [""])[0], ""))]
        result = [dims for _, dims in shapes_of(one.result)]
        if not shapes or not result:
            return 0
        if "__cudnn$fmha" in one.rest:
            scores = re.search(r'"intermediate_tensor_shape".*?"dimensions":\[([^\]]*)\]', one.rest)
            sizes = [int(size) for size in re.findall(r"\d+", scores.group(1))] if scores else [0]
            products = 5 if "Backward" in one.rest else 2
            return 2.0 * products * math.prod(sizes) * shapes[0][-1]
        summed = re.search(r'lhs_contracting_dim(?:s=\{|ensions":\[)([\d,"]*)', one.rest)
        if not summed:
            return 0
        along = math.prod(shapes[0][int(axis)] for axis in re.findall(r"\d+", summed.group(1)))
        return 2.0 * math.prod(result[0]) * along

    def kernel_operations(self) -> float:
        """Returns the operations of a TPU's attention kernels, whose cycles no compiler notes.

        Two products forward and five backward; a head narrower than a row of 128 lanes takes
        one all the same.
        """
        total = 0.0
        for one, times in self.executed():
            if '"tpu_custom_call"' not in one.rest or one.cycles:
                continue
            heads = next((dims for _, dims in shapes_of(one.result) if len(dims) == 4), ())
            products = 2 if "_fwd" in one.name else 5
            if heads:
                rows_and_heads, length, width = math.prod(heads[:2]), heads[2], max(heads[3], 128)
                total += times * products * 2.0 * rows_and_heads * length**2 * width
        return total

    def collectives(self) -> list[dict[str, str | int]]:
        """Returns what devices send each other: [{"kind", "count", "bytes"}, ...]."""
        count: Counter[str] = Counter()
        size: dict[str, int] = defaultdict(int)
        for one, times in self.executed():
            kind = one.opcode.removesuffix("-start")
            if kind in _COLLECTIVES:
                count[kind] += times
                size[kind] += times * num_bytes(one.result)
        return [{"kind": kind, "count": count[kind], "bytes": size[kind]} for kind in sorted(count)]

    def kernels(self) -> list[str]:
        """Returns the names of the attention kernels that run; none where XLA's own code does."""
        names = set()
        for one, _ in self.executed():
            target = re.search(r'custom_call_target="([^"]*)"', one.rest)
            if not target or one.opcode != "custom-call":
                continue
            if target.group(1) == "tpu_custom_call":
                names.add(re.sub(r"[.\d]+$", "", one.name))
            elif "fmha" in target.group(1):
                names.add(target.group(1))
        return sorted(names)

    def buffers(self) -> set[tuple[int, ...]]:
        """Returns the shapes of everything that is kept in memory while the program runs."""
        return {dims for one, _ in self.executed() for _, dims in shapes_of(one.result)}


def part_of(op_name: str) -> str:
    """Returns which of `PARTS` an instruction belongs to, by the scopes in its `op_name`."""
    scopes = set(re.split(r"[/()]+", op_name))
    for part in ("dropout", "masking", "optimizer"):
        if part in scopes:
            return part
    if any(re.fullmatch(r"layers(_\d+)?", scope) for scope in scopes):
        is_second_half = scopes & {"intermediate", "output", "output_norm", "gelu"}
        return "feed-forward" if is_second_half else "attention"
    return "head" if scopes & {"transform", "gelu", "transform_norm", "head"} else "rest"


def shapes_of(result: str) -> list[tuple[str, tuple[int, ...]]]:
    """Returns [("bf16", (8, 512)), ...] of a type's text."""
    return [
        (kind, tuple(int(size) for size in sizes.split(",") if size))
        for kind, sizes in _SHAPE.findall(result)
    ]


def num_bytes(result: str) -> int:
    """Returns the bytes of a value of this type."""
    return sum(_item_bytes(kind) * math.prod(dims) for kind, dims in shapes_of(result))


def _item_bytes(kind: str) -> int:
    """Returns the bytes of one number: of bf16 2, of f8e4m3fn 1."""
    bits = re.match(r"[a-z]+(\d+)", kind)
    return _ITEM_BYTES.get(kind) or (int(bits.group(1)) // 8 if bits else 0)


def _cycles(run: list[tuple[Instruction, int]]) -> int:
    """Returns the cycles of what runs."""
    return sum(one.cycles * times for one, times in run)
