"""Cut a model where training begins to move it: everything before becomes a function of the row, kept and handed back.

Modules stay in their places under their names; those that had finished before the cut answer with what was kept of
them instead of computing it. What has to be kept is found by trying: a value is needed when the model's output turns
into NaN with it. What belongs to no row (T5's table of positions) is computed again on one row, which costs next to
nothing. So no family is known here by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from regraft.bases.adapted import Adapted
from regraft.contracts import Batch, device_of
from regraft.trunk.boundary import GIVEN, Part, by_row, inside, is_kept, joined, laid_out, order_of, widened
from regraft.trunk.shapes import ROWS, Sizes, dims_of, sizes_of
from regraft.trunk.trace import Call, Tape, live_modules, record, tensors_in

Boundary = Mapping[str, Tensor]
"""What the suffix needs of a batch, by `Part.key`."""


class NotCut(Exception):
    """Why this model cannot be cut, in words; it is then computed whole."""


class NothingFrozen(NotCut):
    """There is no frozen part: nothing to be told of."""


@dataclass(frozen=True, slots=True)
class Stub:
    """What stands in for one finished module."""

    module: str
    parts: tuple[Part, ...]
    tree: TreeSpec
    by_row: tuple[bool, ...] = ()
    """Which of the values that it is called with, flattened, hold one slice a row."""


@dataclass(frozen=True)
class Cut:
    """Where a model is cut, and what of each row must be kept for it."""

    stubs: tuple[Stub, ...]
    sizes: Sizes = field(default_factory=Sizes)
    """What was taken for granted of the sizes of rows."""

    @property
    def kept(self) -> tuple[Part, ...]:
        """What is kept of each row."""
        return tuple(part for stub in self.stubs for part in stub.parts if part.role == "kept")

    @contextmanager
    def standing_in(self, model: nn.Module, boundary: Boundary, sizes: Mapping[str, int]) -> Iterator[None]:
        """Inside, the model's forward pass on a batch of these sizes begins at the cut."""
        device = device_of(model)

        def value(part: Part) -> Tensor:
            if part.role == "kept":
                return widened(part, boundary[part.key], sizes)
            return torch.zeros((), dtype=part.dtype, device=device).expand(part.shape(sizes))

        with _stubbed(model, self.stubs, value):
            yield

    def split(self, boundary: Boundary, own: Sequence[Mapping[str, int]]) -> list[dict[str, Tensor]]:
        """A batch's boundary as one a row, without the padding; `own` are the sizes of each row alone.

        NotCut where a row or a value has not the sizes that were found: so it is when images are of several sizes.
        """
        if strange := next(filter(None, map(self.sizes.broken_by, own)), None):
            raise NotCut(strange)
        rows: list[dict[str, Tensor]] = [{} for _ in own]
        longest = {name: max(sizes[name] for sizes in own) for name in own[0]} | {ROWS: len(own)}
        for part in self.kept:
            wanted = part.shape(longest)
            wanted = (wanted[0], 1, *wanted[2:]) if part.first_only else wanted
            if (found := tuple(boundary[part.key].shape)) != wanted:
                raise NotCut(f"{part.module} returns {found} where {wanted} follows from the sizes of the rows")
            folded = by_row(part, boundary[part.key], len(own))
            for row, values, sizes in zip(rows, folded, own, strict=True):
                row[part.key] = values[inside(part, sizes)].contiguous()
        return rows

    def take(self, boundary: Boundary, places: Sequence[int], rows: int, sizes: Mapping[str, int]) -> dict[str, Tensor]:
        """The boundary of some rows (again and again, in any order) of a batch of `rows` as one of these sizes.

        No size may be larger than the batch's own: what is beyond is padding, and is cut off.
        """
        found: dict[str, Tensor] = {}
        for part in self.kept:
            values = boundary[part.key]
            if list(places) != list(range(rows)):
                chosen = torch.tensor(places, device=values.device)
                values = by_row(part, values, rows).index_select(0, chosen)
                values = values.flatten(0, 1) if part.dims[0].times > 1 else values
            inner = [slice(dim.of(sizes)) for dim in part.dims[1:]]
            found[part.key] = laid_out(values[(slice(None), *inner)].contiguous(), part.order)
        return found

    def join(self, rows: Sequence[Mapping[str, Tensor]], sizes: Mapping[str, int]) -> dict[str, Tensor]:
        """The boundary of a batch of these sizes from that of its rows; padding is zero."""
        return {part.key: joined(part, [row[part.key] for row in rows], sizes) for part in self.kept}


def union(cuts: Iterable[Cut]) -> Cut:
    """What all of the cuts keep, each value once: to be computed in one pass, not to stand in for a model."""
    cuts = list(cuts)
    parts = {part.key: part for cut in cuts for part in cut.kept}
    sizes = max((cut.sizes for cut in cuts), key=lambda sizes: len(sizes.fixed) + len(sizes.same), default=Sizes())
    return keeping(parts.values(), sizes)


def keeping(parts: Iterable[Part], sizes: Sizes) -> Cut:
    """A cut that is only asked what it keeps."""
    _, leaf = tree_flatten(None)
    return Cut(tuple(Stub(part.module, (part,), leaf) for part in parts), sizes)


def find_cut(adapted: Adapted, first: Batch, second: Batch) -> Cut:
    """Where `adapted` can be cut; the two batches differ in how many rows they have, and in their lengths where rows
    have any, by another factor: else a table of positions looks like something that every row has.

    NotCut says why it cannot: nothing is frozen before what trains, or a shape that follows nothing in the batch.
    """
    sizes = Sizes.of(sizes_of(first), sizes_of(second))
    live = live_modules(adapted)
    tapes = record(adapted, first, live), record(adapted, second, live)
    stubs = _stubs(*tapes, sizes_of(first), sizes_of(second))
    holds = {name for name, module in adapted.model.named_modules() if next(module.parameters(), None) is not None}
    computed = tuple(stub for stub in stubs if stub.module in holds)
    if not computed:
        raise NothingFrozen("nothing is frozen before what trains")
    # Modules without parameters may run (tables of positions: free) or stand still (pooling: what is kept shrinks).
    choices = [_needed(adapted, first, tapes[0], found) for found in (computed, stubs)]
    least = min(choices, key=lambda found: sum(part.width for stub in found for part in stub.parts if is_kept(part)))
    return Cut(least, sizes)


def capture(
    adapted: Adapted, batch: Batch, parts: Iterable[Part], seen: Callable[[str], None] | None = None
) -> dict[str, Tensor]:
    """The kept values of a batch, those of several cuts in one pass that ends with the last; in the model's own mode,
    which is to be eval. `seen` hears the key of each as soon as it is there."""
    wanted: dict[str, dict[str, Part]] = {}
    for part in parts:
        wanted.setdefault(part.module, {})[part.key] = part
    found: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for name, inside in wanted.items():
            module = adapted.model.get_submodule(name)
            before = {key: part for key, part in inside.items() if part.place == GIVEN}
            after = {key: part for key, part in inside.items() if part.place != GIVEN}
            if before:
                hook = _catching(before, found, wanted, seen)
                stack.callback(
                    module.register_forward_pre_hook(lambda m, args, hook=hook: hook(m, args, args[:1])).remove
                )
            if after:
                stack.callback(module.register_forward_hook(_catching(after, found, wanted, seen)).remove)
        try:
            with torch.no_grad():
                adapted.forward(batch)
        except _Enough:
            pass
    return found


class _Enough(Exception):
    """Everything that was wanted has been seen."""


def _catching(
    inside: Mapping[str, Part],
    found: dict[str, Tensor],
    wanted: Mapping[str, Mapping[str, Part]],
    seen: Callable[[str], None] | None,
) -> Any:
    total = sum(len(parts) for parts in wanted.values())

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        leaves, _ = tree_flatten(output)
        for key, part in inside.items():
            value = leaves[max(0, part.place)]
            found[key] = value[:, :1] if part.first_only else value
            if seen is not None:
                seen(key)
        if len(found) == total:
            raise _Enough

    return hook


def _stubs(one: Tape, two: Tape, before: Mapping[str, int], after: Mapping[str, int]) -> tuple[Stub, ...]:
    if [call.name for call in one.calls] != [call.name for call in two.calls]:
        raise NotCut("what it computes before the cut depends on the rows")
    return tuple(
        Stub(a.name, tuple(_parts(a, b, before, after)), a.tree, tuple(_by_rows(a, b, before[ROWS], after[ROWS])))
        for a, b in zip(one.calls, two.calls, strict=True)
    )


def _by_rows(one: Call, two: Call, before: int, after: int) -> Iterator[bool]:
    if len(one.given) == len(two.given):
        yield from ((a, b) == (before, after) for a, b in zip(one.given, two.given, strict=True))


def _parts(one: Call, two: Call, before: Mapping[str, int], after: Mapping[str, int]) -> Iterator[Part]:
    if len(one.leaves) != len(two.leaves):
        raise NotCut(f"{one.name} returns another number of values for other rows")
    for place, (a, b) in enumerate(zip(one.leaves, two.leaves, strict=True)):
        if not isinstance(a, Tensor):
            if isinstance(a, bool | int | float | str) and a != b:
                raise NotCut(f"{one.name} returns {a!r} for some rows and {b!r} for others")
            yield Part(one.name, place, "constant", a)
            continue
        dims = dims_of(a.shape, b.shape, before, after)
        if dims is None:
            raise NotCut(f"{one.name} returns {tuple(a.shape)} and {tuple(b.shape)}, which follow no size of the rows")
        by_row = bool(dims) and dims[0].size == ROWS
        # NaN cannot be put into whole numbers, so whether a mask is read cannot be tried.
        role: Literal["kept", "hollow"] = "kept" if by_row and not a.is_floating_point() else "hollow"
        yield Part(one.name, place, role, None, dims, a.dtype, order=order_of(a))


def _needed(adapted: Adapted, batch: Batch, tape: Tape, stubs: tuple[Stub, ...]) -> tuple[Stub, ...]:
    """The stubs with every part in its role."""
    seen = {(call.name, place): leaf for call in tape.calls for place, leaf in enumerate(call.leaves)}

    def clean(spoiled: Part, after: int = 0) -> bool:
        def value(part: Part) -> Tensor:
            found: Tensor = seen[part.module, part.place]
            if part is not spoiled:
                return found
            found = found.clone()
            found[:, after:] = torch.nan
            return found

        with torch.no_grad(), _stubbed(adapted.model, stubs, value):
            return not any(tensor.isnan().any() for tensor in tensors_in(adapted.forward(batch)))

    def settled(part: Part) -> Part:
        if part.role != "hollow" or not part.dtype.is_floating_point or len(part.dims) < 2 or clean(part):
            return part
        if part.dims[0].size != ROWS:
            return replace(part, role="shared")
        longer = len(part.dims) > 2 and part.dims[0].times == 1 and seen[part.module, part.place].shape[1] > 1
        return replace(part, role="kept", first_only=longer and clean(part, 1))

    found = tuple(replace(stub, parts=tuple(settled(part) for part in stub.parts)) for stub in stubs)
    return _relayed(found)


def _relayed(stubs: tuple[Stub, ...]) -> tuple[Stub, ...]:
    """Where one module needs what is the same for all rows, those before it hand it on, and are asked for it too."""
    if not any(part.role == "shared" for stub in stubs for part in stub.parts):
        return stubs

    def asked(part: Part) -> Part:
        tensor = part.role == "hollow" and part.dtype.is_floating_point and part.dims
        return replace(part, role="shared") if tensor and part.dims[0].size != ROWS else part

    return tuple(replace(stub, parts=tuple(map(asked, stub.parts))) for stub in stubs)


@contextmanager
def _stubbed(model: nn.Module, stubs: Sequence[Stub], value: Callable[[Part], Tensor]) -> Iterator[None]:
    """Put the stubs in place of their modules' forward, on the instances: types, names and hooks stay."""
    modules = [(stub, model.get_submodule(stub.module)) for stub in stubs]
    before = [vars(module).get("forward") for _, module in modules]
    for stub, module in modules:
        module.forward = _stub(stub, module.forward, value)
    try:
        yield
    finally:
        for (_, module), own in zip(modules, before, strict=True):
            if own is None:
                del module.forward
            else:
                module.forward = own


def _stub(stub: Stub, original: Callable[..., Any], value: Callable[[Part], Tensor]) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        shared: list[Any] = []
        if any(part.role == "shared" for part in stub.parts):
            with torch.no_grad():
                few, more = _one_row((args, kwargs), stub.by_row)
                shared, _ = tree_flatten(original(*few, **more))
        leaves = [
            part.value if part.role == "constant" else shared[part.place] if part.role == "shared" else value(part)
            for part in stub.parts
        ]
        return tree_unflatten(leaves, stub.tree)

    return forward


def _one_row(given: Any, by_row: Sequence[bool]) -> Any:
    """What a module is called with, of the first row alone. A length says nothing: a batch may have as many rows as
    its texts have tokens."""
    leaves, tree = tree_flatten(given)
    if len(leaves) != len(by_row):
        return given
    return tree_unflatten([leaf[:1] if cut else leaf for leaf, cut in zip(leaves, by_row, strict=True)], tree)
