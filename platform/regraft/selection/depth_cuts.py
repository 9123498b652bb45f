"""Where the features of a base are read: the cuts of runs that freeze it at a depth, or train the head alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from regraft.bases.adapt import narrow
from regraft.contracts import Batch, Method, under
from regraft.errors import Unsupported
from regraft.training.cut_check import CutSite, check_encoded_alike, probes
from regraft.training.evaluate import to_device
from regraft.training.phases import trained_names
from regraft.trunk.boundary import Boundary
from regraft.trunk.cut import Cut, NotCut, NothingFrozen, find_cut

MOST_DEPTHS = 8
"""Depths of a base at which features are read, the last among them."""
HEAD = "before the head"
"""The name of the place whose features a head reads."""


@dataclass(frozen=True)
class DepthCut:
    """One place in a base at which features are read."""

    name: str
    """Its name on screens and pages, such as `depth 4 of 6`."""
    depth: int
    """The blocks before it."""
    read: Boundary
    """The value whose mean over positions is the feature."""
    cut: Cut | None = field(default=None, repr=False)
    """The cut of a run that freezes all before it; None where nothing is kept for one."""
    wanted: bool = False
    """Whether a run of the spec's own method begins here."""


def depths_of(blocks: int) -> list[int]:
    """Return the depths at which features of a base with so many blocks are read."""
    if blocks <= MOST_DEPTHS:
        return list(range(1, blocks + 1))
    return sorted({round(blocks * number / MOST_DEPTHS) for number in range(1, MOST_DEPTHS + 1)})


def depth_cuts(site: CutSite, method: Method) -> list[DepthCut]:
    """Return the cuts of a model whose every weight moves, by depth; the last is before the head.

    `method` is that of the run that may follow. Raises NotCut where the model can be cut nowhere.
    """
    adapted = site.adapted
    batches, _ = probes(adapted, site.snapshot.train)
    check_encoded_alike(adapted, site.snapshot.train)
    probed: tuple[Batch, Batch] = to_device(batches[0], site.harness.device), to_device(batches[1], site.harness.device)
    blocks, moving = len(adapted.anatomy.blocks), trained_names(adapted)
    found: dict[tuple[str, ...], DepthCut] = {}
    reason: NotCut = NothingFrozen("it has no blocks, and no head of its own")
    for one in _methods(site, method):
        narrow(adapted, moving, one)
        try:
            made = _depth_cut(site, probed, one, blocks, wanted=one == method)
        except NotCut as error:
            reason = error
            continue
        key = tuple(sorted(boundary.key for boundary in made.cut.kept)) if made.cut else ()
        if key not in found or made.wanted:
            found[key] = made
    narrow(adapted, moving, adapted.method)
    if not found:
        raise reason
    return sorted(found.values(), key=lambda one: (one.depth, one.name == HEAD))


def _methods(site: CutSite, method: Method) -> Iterator[Method]:
    """Yield the methods whose runs begin at each depth, that of the spec first if it is one of them."""
    anatomy = site.adapted.anatomy
    if method.by_depth and not method.has_phases() and not method.closed_form:
        yield method
    for member in map(Method.lookup, Method.names()):
        if not member.by_depth or member.closed_form or member.has_phases():
            continue
        if member.serves == "head":
            if anatomy.head:
                yield from _made_at(member, None)
        else:
            for depth in depths_of(len(anatomy.blocks)):
                yield from _made_at(member, depth)


def _made_at(member: type[Method], depth: int | None) -> Iterator[Method]:
    """Yield the method at a depth; nothing for a user's method that takes none."""
    try:
        yield member.model_validate({} if depth is None else {"depth": depth})
    except ValidationError:
        return


def _depth_cut(site: CutSite, probed: tuple[Batch, Batch], method: Method, blocks: int, *, wanted: bool) -> DepthCut:
    try:
        depth = method.depth_of(site.adapted.anatomy)
    except Unsupported as error:
        raise NotCut(str(error)) from error
    # Values are only read here: a run that begins with them checks its own cut, and what it finds.
    with site.accelerator.autocast():
        cut = find_cut(site.adapted, *probed)
    name = HEAD if method.serves == "head" else f"depth {depth} of {blocks}"
    return DepthCut(name, depth, _read(cut.kept, site.adapted.anatomy.blocks), cut, wanted)


def _read(kept: Sequence[Boundary], blocks: Sequence[str]) -> Boundary:
    """Return the value that holds most of what a cut keeps: the last block's, or the widest."""
    floating = [boundary for boundary in kept if boundary.dtype.is_floating_point]
    if not floating:
        raise NotCut("what is kept there is no feature")
    of_blocks = [boundary for boundary in floating if under(boundary.module, blocks)]
    return of_blocks[-1] if of_blocks else max(floating, key=lambda boundary: boundary.width)
