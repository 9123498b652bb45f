"""Cut a model where training begins to change it, so that the frozen part's outputs can be stored and replayed.

Modules keep their places and names. Those that finish before the cut answer with stored values instead of computing
them. Which values must be stored is found by experiment: a value is needed if the model's output becomes NaN with it.
Values that belong to no row (T5's table of positions) are computed again on one row, at almost no cost. So no model
family is known here by its name.
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
from regraft.trunk.boundary import GIVEN, Boundary, laid_out, order_of
from regraft.trunk.shapes import ROWS, Sizes, dims_of, sizes_of
from regraft.trunk.trace import Call, Trace, live_modules, record, tensors_in

BoundaryTensors = Mapping[str, Tensor]
"""A batch's values at the cut, by `Boundary.key`."""


class NotCut(Exception):
    """The reason why this model cannot be cut, in words; its frozen part is then computed in every pass."""


class NothingFrozen(NotCut):
    """The model has no frozen part, which needs no notice to the user."""


@dataclass(frozen=True, slots=True)
class Bypass:
    """The recorded answer of one finished module."""

    module: str
    boundaries: tuple[Boundary, ...]
    tree: TreeSpec
    by_row: tuple[bool, ...] = ()
    """For each argument of the module, flattened, whether it holds one slice per row."""


@dataclass(frozen=True)
class Cut:
    """The place where a model is cut, and the values of each row that must be stored for it."""

    bypasses: tuple[Bypass, ...]
    sizes: Sizes = field(default_factory=Sizes)
    """Assumptions about the sizes of rows, checked by `split`."""

    @property
    def kept(self) -> tuple[Boundary, ...]:
        """The values to store for each row."""
        return tuple(boundary for boundary in _boundaries_of(self.bypasses) if boundary.role == "kept")

    @contextmanager
    def bypassed(self, model: nn.Module, tensors: BoundaryTensors, sizes: Mapping[str, int]) -> Iterator[None]:
        """Let the model's forward pass on a batch of these sizes begin at the cut, while the context is open."""
        device = device_of(model)

        def value(boundary: Boundary) -> Tensor:
            if boundary.role == "kept":
                return boundary.widen(tensors[boundary.key], sizes)
            return torch.zeros((), dtype=boundary.dtype, device=device).expand(boundary.shape(sizes))

        with _bypassed(model, self.bypasses, value):
            yield

    def split(self, tensors: BoundaryTensors, row_sizes: Sequence[Mapping[str, int]]) -> list[dict[str, Tensor]]:
        """Return a batch's values row by row, without padding; `row_sizes` are the sizes of each row in its own batch.

        Raises NotCut when a row or a value breaks the assumptions about sizes, as images of several sizes do.
        """
        if reason := next(filter(None, map(self.sizes.broken_by, row_sizes)), None):
            raise NotCut(reason)
        count = len(row_sizes)
        rows: list[dict[str, Tensor]] = [{} for _ in row_sizes]
        longest = {name: max(sizes[name] for sizes in row_sizes) for name in row_sizes[0]} | {ROWS: count}
        for boundary in self.kept:
            expected = boundary.shape(longest)
            expected = (expected[0], 1, *expected[2:]) if boundary.first_only else expected
            if (found := tuple(tensors[boundary.key].shape)) != expected:
                raise NotCut(f"{boundary.module} returns {found} where {expected} follows from the sizes of the rows")
            folded = boundary.by_row(tensors[boundary.key], count)
            for row, values, sizes in zip(rows, folded, row_sizes, strict=True):
                row[boundary.key] = values[boundary.without_padding(sizes)].contiguous()
        return rows

    def take(
        self, tensors: BoundaryTensors, indices: Sequence[int], rows: int, sizes: Mapping[str, int]
    ) -> dict[str, Tensor]:
        """Return the values of some rows of a batch of `rows`, as those of a batch of these sizes.

        Indices may repeat, in any order. No size may be larger than in the batch: entries beyond are padding
        and are cut off.
        """
        found: dict[str, Tensor] = {}
        for boundary in self.kept:
            values = tensors[boundary.key]
            if list(indices) != list(range(rows)):
                chosen = torch.tensor(indices, device=values.device)
                values = boundary.by_row(values, rows).index_select(0, chosen)
                values = values.flatten(0, 1) if boundary.folds > 1 else values
            inner = [slice(dim.of(sizes)) for dim in boundary.dims[1:]]
            found[boundary.key] = laid_out(values[(slice(None), *inner)].contiguous(), boundary.order)
        return found

    def join(self, rows: Sequence[Mapping[str, Tensor]], sizes: Mapping[str, int]) -> dict[str, Tensor]:
        """Return the values of single rows as those of one batch of these sizes; padding is zero."""
        return {boundary.key: boundary.join([row[boundary.key] for row in rows], sizes) for boundary in self.kept}


def union(cuts: Iterable[Cut]) -> Cut:
    """Return a cut that keeps what all of the cuts keep, to capture their values in one pass; it cannot bypass."""
    cuts = list(cuts)
    boundaries = {boundary.key: boundary for cut in cuts for boundary in cut.kept}
    sizes = max((cut.sizes for cut in cuts), key=lambda sizes: len(sizes.fixed) + len(sizes.same), default=Sizes())
    return capture_only(boundaries.values(), sizes)


def capture_only(boundaries: Iterable[Boundary], sizes: Sizes) -> Cut:
    """Return a cut that only names the values to capture."""
    _, leaf = tree_flatten(None)
    return Cut(tuple(Bypass(boundary.module, (boundary,), leaf) for boundary in boundaries), sizes)


def find_cut(adapted: Adapted, first: Batch, second: Batch) -> Cut:
    """Find where `adapted` can be cut, from two probe batches on the model's device.

    The batches differ in their number of rows, and, by another factor, in their lengths where rows have any: otherwise
    a table of positions looks like a value of every row. Raises NotCut with the reason: nothing is frozen before the
    first trained module, or a shape follows no size of the batch.
    """
    sizes = Sizes.of(sizes_of(first), sizes_of(second))
    live = live_modules(adapted)
    traces = record(adapted, first, live), record(adapted, second, live)
    everything = _bypasses(*traces, sizes_of(first), sizes_of(second))
    weighted = {name for name, module in adapted.model.named_modules() if next(module.parameters(), None) is not None}
    computed = tuple(bypass for bypass in everything if bypass.module in weighted)
    if not computed:
        raise NothingFrozen("nothing is frozen before what trains")
    # Modules without parameters may run (tables of positions: free) or be bypassed (pooling: less has to be kept).
    choices = [Cut(_with_roles(adapted, first, traces[0], bypasses), sizes) for bypasses in (computed, everything)]
    return min(choices, key=lambda cut: sum(boundary.width for boundary in cut.kept))


def capture(
    adapted: Adapted, batch: Batch, boundaries: Iterable[Boundary], seen: Callable[[str], None] | None = None
) -> dict[str, Tensor]:
    """Run a batch until all boundary values are computed, and return them by key.

    The model keeps its mode, which has to be eval. `seen` is called with each key as soon as its value exists.
    """
    wanted: dict[str, dict[str, Boundary]] = {}
    for boundary in boundaries:
        wanted.setdefault(boundary.module, {})[boundary.key] = boundary
    found: dict[str, Tensor] = {}
    total = sum(map(len, wanted.values()))
    with ExitStack() as stack:
        for name, by_key in wanted.items():
            module = adapted.model.get_submodule(name)
            given = {key: boundary for key, boundary in by_key.items() if boundary.place == GIVEN}
            returned = {key: boundary for key, boundary in by_key.items() if boundary.place != GIVEN}
            if given:
                hook = _catching(given, found, total, seen)
                stack.callback(
                    module.register_forward_pre_hook(lambda m, args, hook=hook: hook(m, args, args[:1])).remove
                )
            if returned:
                stack.callback(module.register_forward_hook(_catching(returned, found, total, seen)).remove)
        try:
            with torch.no_grad():
                adapted.forward(batch)
        except _AllFound:
            pass
    return found


class _AllFound(Exception):
    """Ends a forward pass in which every wanted value has been captured."""


def _catching(
    boundaries: Mapping[str, Boundary], found: dict[str, Tensor], total: int, seen: Callable[[str], None] | None
) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        leaves, _ = tree_flatten(output)
        for key, boundary in boundaries.items():
            value = leaves[max(0, boundary.place)]
            found[key] = value[:, :1] if boundary.first_only else value
            if seen is not None:
                seen(key)
        if len(found) == total:
            raise _AllFound

    return hook


def _boundaries_of(bypasses: Iterable[Bypass]) -> Iterator[Boundary]:
    for bypass in bypasses:
        yield from bypass.boundaries


def _mapped(bypasses: Iterable[Bypass], change: Callable[[Boundary], Boundary]) -> tuple[Bypass, ...]:
    return tuple(replace(bypass, boundaries=tuple(map(change, bypass.boundaries))) for bypass in bypasses)


def _bypasses(one: Trace, two: Trace, before: Mapping[str, int], after: Mapping[str, int]) -> tuple[Bypass, ...]:
    if [call.name for call in one.calls] != [call.name for call in two.calls]:
        raise NotCut("what it computes before the cut depends on the rows")
    return tuple(
        Bypass(a.name, tuple(_boundaries(a, b, before, after)), a.tree, tuple(_by_row(a, b, before[ROWS], after[ROWS])))
        for a, b in zip(one.calls, two.calls, strict=True)
    )


def _by_row(one: Call, two: Call, before: int, after: int) -> Iterator[bool]:
    if len(one.given) == len(two.given):
        yield from ((a, b) == (before, after) for a, b in zip(one.given, two.given, strict=True))


def _boundaries(one: Call, two: Call, before: Mapping[str, int], after: Mapping[str, int]) -> Iterator[Boundary]:
    if len(one.leaves) != len(two.leaves):
        raise NotCut(f"{one.name} returns another number of values for other rows")
    for place, (a, b) in enumerate(zip(one.leaves, two.leaves, strict=True)):
        if not isinstance(a, Tensor):
            if isinstance(a, bool | int | float | str) and a != b:
                raise NotCut(f"{one.name} returns {a!r} for some rows and {b!r} for others")
            yield Boundary(one.name, place, "constant", a)
            continue
        dims = dims_of(a.shape, b.shape, before, after)
        if dims is None:
            raise NotCut(f"{one.name} returns {tuple(a.shape)} and {tuple(b.shape)}, which follow no size of the rows")
        by_row = bool(dims) and dims[0].size == ROWS
        # Integers cannot hold NaN, so the experiment cannot find out whether a mask is read: it is kept.
        role: Literal["kept", "shape_only"] = "kept" if by_row and not a.is_floating_point() else "shape_only"
        yield Boundary(one.name, place, role, None, dims, a.dtype, order=order_of(a))


def _with_roles(adapted: Adapted, batch: Batch, trace: Trace, bypasses: tuple[Bypass, ...]) -> tuple[Bypass, ...]:
    """Return the bypasses with the role of every boundary, found by setting one value after the other to NaN."""
    leaves = {(call.name, place): leaf for call in trace.calls for place, leaf in enumerate(call.leaves)}

    def unread(spoiled: Boundary, after: int = 0) -> bool:
        """Return whether the output has no NaN when the value is NaN from entry `after` of axis 1 on."""

        def value(boundary: Boundary) -> Tensor:
            found: Tensor = leaves[boundary.module, boundary.place]
            if boundary is not spoiled:
                return found
            found = found.clone()
            found[:, after:] = torch.nan
            return found

        with torch.no_grad(), _bypassed(adapted.model, bypasses, value):
            return not any(tensor.isnan().any() for tensor in tensors_in(adapted.forward(batch)))

    def with_role(boundary: Boundary) -> Boundary:
        dims = boundary.dims
        if boundary.role != "shape_only" or not boundary.dtype.is_floating_point or len(dims) < 2 or unread(boundary):
            return boundary
        if dims[0].size != ROWS:
            return replace(boundary, role="shared")
        several = len(dims) > 2 and boundary.folds == 1 and leaves[boundary.module, boundary.place].shape[1] > 1
        return replace(boundary, role="kept", first_only=several and unread(boundary, 1))

    return _relayed(_mapped(bypasses, with_role))


def _relayed(bypasses: tuple[Bypass, ...]) -> tuple[Bypass, ...]:
    """Make every row-independent value shared if one module needs such a value: earlier modules hand it on."""
    if not any(boundary.role == "shared" for boundary in _boundaries_of(bypasses)):
        return bypasses

    def handed_on(boundary: Boundary) -> Boundary:
        tensor = boundary.role == "shape_only" and boundary.dtype.is_floating_point and boundary.dims
        return replace(boundary, role="shared") if tensor and boundary.dims[0].size != ROWS else boundary

    return _mapped(bypasses, handed_on)


@contextmanager
def _bypassed(model: nn.Module, bypasses: Sequence[Bypass], value: Callable[[Boundary], Tensor]) -> Iterator[None]:
    """Replace the forward of each bypassed module, on the instance: types, names and hooks stay."""
    modules = [(bypass, model.get_submodule(bypass.module)) for bypass in bypasses]
    before = [vars(module).get("forward") for _, module in modules]
    for bypass, module in modules:
        module.forward = _answer(bypass, module.forward, value)
    try:
        yield
    finally:
        for (_, module), own in zip(modules, before, strict=True):
            if own is None:
                del module.forward
            else:
                module.forward = own


def _answer(bypass: Bypass, original: Callable[..., Any], value: Callable[[Boundary], Tensor]) -> Callable[..., Any]:
    """Return the forward function of a bypassed module; `original` computes its shared values on one row."""
    any_shared = any(boundary.role == "shared" for boundary in bypass.boundaries)

    def forward(*args: Any, **kwargs: Any) -> Any:
        shared: list[Any] = []
        if any_shared:
            with torch.no_grad():
                few, more = _one_row((args, kwargs), bypass.by_row)
                shared, _ = tree_flatten(original(*few, **more))

        def leaf(boundary: Boundary) -> Any:
            if boundary.role == "constant":
                return boundary.value
            return shared[boundary.place] if boundary.role == "shared" else value(boundary)

        return tree_unflatten(list(map(leaf, bypass.boundaries)), bypass.tree)

    return forward


def _one_row(given: Any, by_row: Sequence[bool]) -> Any:
    """Return a module's arguments for the first row alone.

    The length of axis 0 does not show whether an argument holds rows: a batch may have as many rows as tokens.
    """
    leaves, tree = tree_flatten(given)
    if len(leaves) != len(by_row):
        return given
    return tree_unflatten([leaf[:1] if cut else leaf for leaf, cut in zip(leaves, by_row, strict=True)], tree)
