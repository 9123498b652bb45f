"""Several bases in one space: what is tried with which, what is refused, what is pinned, and what is registered."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from doubles.fake_pool import FakePool, a_spec, searched, study
from regraft.bases.derived_base import find_base
from regraft.bases.locate import Base, locate
from regraft.contracts import Anatomy, Note
from regraft.errors import RequestError, SpecError, WrongBase
from regraft.spec.run import RunSpec
from regraft.spec.search_bases import base_of_trial, bases_of, short_bases
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.tuning.driver.prepare import search_name
from regraft.tuning.driver.search_store import SearchStore
from regraft.tuning.driver.trial_queue import TrialQueue
from regraft.tuning.model_checks import check_methods
from regraft.tuning.protocol import JobBase, SearchJob, Trial
from regraft.tuning.records import TrialRecord
from regraft.tuning.searched_bases import SearchedBases, check_bases, find_bases, left_out_notes, searched_bases
from regraft.tuning.space import default_points
from regraft.tuning.study import GridPoints, RandomPoints
from regraft.tuning.validate import check_search
from support.image_bases import tiny_resnet
from support.tiny import tiny_bert, tokenizer_of
from unit.tuning.sample_records import search

RATES = {"training.lr": {"loguniform": [1e-5, 1e-1]}}
PLAIN: dict[str, Any] = {
    "name": "tickets",
    "base": "org/b",
    "task": "text-classification",
    "method": "freeze",
    "data": {"train": "train.csv"},
}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return two tiny bases, of two and of three blocks."""
    folder = tmp_path_factory.mktemp("two")
    small, large = tiny_bert(folder / "small"), tiny_bert(folder / "large", layers=3, seed=3)
    return [str(small), str(large)]


def spec_with(space: dict[str, Any], **more: Any) -> RunSpec:
    return RunSpec.resolve({**PLAIN, **more, "search": {"space": space}})


def with_blocks(blocks: dict[str, int]) -> SearchedBases:
    """Return bases with these numbers of blocks, without files."""
    bases = {name: Base(name, Path(name), f"hash of {name}", "") for name in blocks}
    anatomies = {
        name: Anatomy("", (), tuple(f"block.{n}" for n in range(count)), ("head",)) for name, count in blocks.items()
    }
    return SearchedBases(bases, dict.fromkeys(blocks, ()), anatomies)


# What may be written.


def test_a_list_of_bases_is_a_choice_of_absolute_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = spec_with({"base": ["./small", "org/large"], **RATES})
    assert bases_of(spec.search) == (str(tmp_path / "small"), "org/large")
    check_search(spec)
    assert RunSpec.resolve(spec.model_dump(mode="json")) == spec
    gridded = spec_with({"base": {"grid": ["./small", "org/large"]}, **RATES})
    assert bases_of(gridded.search) == bases_of(spec.search)
    assert bases_of(spec_with(RATES).search) == bases_of(None) == ()


def test_stages_lead_to_one_base(tmp_path: Path) -> None:
    stage = {"task": "masked-lm", "data": {"train": "texts.csv"}, "method": "full"}
    with pytest.raises(SpecError, match="cannot vary with stages"):
        check_search(spec_with({"base": ["org/b"], **RATES}, stages=[stage], method="full"))


@pytest.mark.parametrize(
    "references",
    [
        ["/a/model", "/b/model", "/b/c/model", "model"],
        ["org/small", "org/large@main", "package:one/model", "package:other/model"],
        ["s3://bucket/one/v1", "s3://bucket/two/v1", "model:mine@v2"],
        ["/only/this"],
    ],
)
def test_short_names_tell_bases_apart_and_end_them(references: list[str]) -> None:
    names = short_bases(references)
    assert list(names) == references
    assert len(set(names.values())) == len(references)
    assert all(reference.endswith(name) for reference, name in names.items())
    assert "/" not in short_bases(["/only/this"])["/only/this"]


# Points.


def test_the_first_points_hold_the_specs_values_with_every_base_and_every_method() -> None:
    methods = ["feature-extraction", "freeze", "lora"]
    spec = spec_with(
        {"base": ["org/a", "org/b", "org/c"], "method": {"choice": methods}, **RATES}, training={"lr": 1e-3}
    )
    points = default_points(spec)
    assert [(point["base"], point["method"]) for point in points] == [
        ("org/b", "feature-extraction"),
        ("org/a", "feature-extraction"),
        ("org/c", "feature-extraction"),
        ("org/b", "freeze"),
        ("org/b", "lora"),
    ]
    assert {point["training.lr"] for point in points} == {1e-3}


@pytest.mark.parametrize("seed", range(5))
def test_no_trial_has_a_depth_that_its_base_lacks_and_every_other_point_is_tried_once(seed: int) -> None:
    draw = random.Random(seed)
    blocks = {f"org/{name}": draw.randint(1, 12) for name in "abc"[: draw.randint(1, 3)]}
    depths: list[Any] = draw.sample(range(13), 4) + draw.sample(["50%", "all", "100%"], 1)
    depths.append(0)  # fits every base
    space = {"base": {"grid": list(blocks)}, "method.depth": {"grid": list(dict.fromkeys(depths))}}
    spec = spec_with(space)
    found = with_blocks(blocks)
    tried = study(spec) if draw.random() < 0.5 else study(spec.override({"search.sampler": "grid"}))
    tried.admits = lambda overrides: found.admits(spec, overrides)
    seen = []
    while (suggested := tried.suggest()) is not None:
        seen.append((suggested[0].overrides["base"], suggested[0].overrides["method.depth"]))
    wanted = [
        (base, depth)
        for base, depth in itertools.product(blocks, dict.fromkeys(depths))
        if isinstance(depth, str) or depth <= blocks[base]
    ]
    assert sorted(seen, key=str) == sorted(wanted, key=str)


def test_points_go_on_where_some_were_passed_over() -> None:
    spec, found = spec_with({"base": ["org/a", "org/b"], "method.depth": {"randint": [0, 9]}, **RATES}), None
    bases = with_blocks({"org/a": 2, "org/b": 7})

    def run(known: list[TrialRecord], count: int) -> list[TrialRecord]:
        tried = study(spec)
        tried.admits = lambda overrides: bases.admits(spec, overrides)
        tried.restore(known)
        records = list(known)
        for _ in range(count):
            trial, drawn = tried.suggest() or pytest.fail("no more points")
            records.append(TrialRecord(trial.id, trial.number, dict(trial.overrides), "finished", drawn=dict(drawn)))
        return records

    whole = run([], 12)
    assert found is None and len({json.dumps(one.overrides) for one in whole}) == 12
    assert [one.overrides for one in run(whole[:5], 7)] == [one.overrides for one in whole]


@pytest.mark.parametrize("seed", range(3))
def test_a_batch_of_heads_is_of_one_base_and_every_trial_comes_once(seed: int) -> None:
    draw = random.Random(seed)
    spec = spec_with({"base": ["org/a", "org/b", "org/c"], **RATES}, method="feature-extraction")
    spec = spec.override({"search.trials": 40})
    queue = TrialQueue(spec, study(spec), lambda trial, drawn: None)
    came: list[Trial] = []
    while batch := queue.batch():
        assert len({base_of_trial(trial.overrides) for trial in batch}) == 1
        if draw.random() < 0.2:
            queue.put(batch.pop(), apart=True)
        came += batch
    assert sorted(trial.number for trial in came) == list(range(40))


# What is refused.


def test_every_unsuitable_base_is_named_at_once(two: list[str], tmp_path: Path) -> None:
    resnet, none = str(tiny_resnet(tmp_path / "resnet")), str(tmp_path / "none")
    space = {"base": [*two, resnet, none, "org/"], "method": {"choice": [{"type": "freeze", "depth": 3}]}, **RATES}
    spec = a_spec(tmp_path, {"space": space})
    with pytest.raises(SpecError) as unfit:
        searched_bases(open_store(spec.store), spec)
    assert unfit.value.exit_code == 2
    problems = {problem.split(": ")[1]: problem for problem in unfit.value.problems}
    assert set(problems) == {two[0], resnet, none, "org/"} and len(unfit.value.problems) == 4
    assert all(problem.startswith("search.space.base: ") for problem in unfit.value.problems)
    assert "nothing of search.space fits: " in problems[two[0]]
    assert "3 is written; this base has 2 blocks" in problems[two[0]]
    assert "tokenizer" in problems[resnet] and "is not there" in problems[none]
    with pytest.raises(SpecError, match="none: "):
        searched_bases(open_store(spec.store), spec.override({"search.space.base": [none]}))


def test_a_base_whose_family_cannot_do_the_task_is_named(two: list[str], tmp_path: Path) -> None:
    wrong = tiny_resnet(tmp_path / "wrong")
    tokenizer_of(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "lamp"]).save_pretrained(wrong)
    spec = a_spec(tmp_path, {"space": {"base": [*two, str(wrong)], **RATES}})
    with pytest.raises(SpecError, match=f"search.space.base: {wrong}: .*task text-classification cannot be done"):
        searched_bases(open_store(spec.store), spec)


def test_a_depth_that_no_base_has_is_refused_and_one_that_some_have_is_not(two: list[str], tmp_path: Path) -> None:
    space = {"base": two, "method.depth": {"choice": [1, 3, 9]}}
    spec = a_spec(tmp_path, {"space": space}, method="freeze")
    bases, _ = find_bases(open_store(spec.store), spec)
    with pytest.raises(SpecError, match=r"method freeze \(depth: 9\) fits no base: the largest has 3 blocks"):
        check_bases(spec, bases)
    fitting = a_spec(tmp_path, {"space": space | {"method.depth": {"choice": [1, 3]}}}, method="freeze")
    found = check_bases(fitting, bases)
    assert dict(found.depths) == {two[0]: (1,), two[1]: (1, 3)}
    (note,) = left_out_notes(fitting, found)
    assert note.startswith("method freeze (depth: 3) is not tried with small, which has 2 blocks")


def test_scores_of_tokens_are_not_compared_over_tokenizers(two: list[str], tmp_path: Path) -> None:
    spec = a_spec(tmp_path, {"space": {"base": two, **RATES}}, task="masked-lm", method="full")
    bases, _ = find_bases(open_store(spec.store), spec)
    assert set(check_bases(spec, bases).bases) == set(two)
    other = {**bases, two[1]: replace(bases[two[1]], processor_hash="another")}
    with pytest.raises(SpecError, match=f"{two[1]}: its tokenizer is not that of {two[0]}, and task masked-lm packs"):
        check_bases(spec, other)


def test_a_search_of_one_such_base_is_left_to_its_trials_which_say_it(tmp_path: Path) -> None:
    """transformers' ValueError about the family once ended the command with a traceback."""
    wrong = tiny_resnet(tmp_path / "wrong")
    tokenizer_of(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "lamp"]).save_pretrained(wrong)
    spec = a_spec(tmp_path, {"space": {"method.depth": {"choice": [1]}}}, method="freeze", base=str(wrong))
    assert check_methods(spec, locate(spec.base)) == ()


@pytest.mark.slow
def test_random_weights_of_several_architectures_can_race(two: list[str], tmp_path: Path) -> None:
    space = {"base": {"grid": two}, "training.lr": {"grid": [1e-3]}}
    spec = a_spec(tmp_path, {"space": space}, method="full", training={"init": "random", "epochs": 1})
    searched(spec, FakePool())
    store = open_store(spec.store)
    record = SearchStore(store, search_name(spec)).record()
    assert record is not None
    hashes = {base: find_base(store, f"random:0:{base}").hash for base in two}
    assert {base: known["hash"] for base, known in record.bases.items()} == hashes
    meta = Registry(store).version("tiny").meta
    assert meta["base"]["reference"].startswith("random:0:") and meta["base"]["hash"] in hashes.values()


# A search.


def test_every_base_is_pinned_and_each_version_is_registered_with_its_own(tmp_path: Path) -> None:
    two = [str(tiny_bert(tmp_path / "small")), str(tiny_bert(tmp_path / "large", layers=3, seed=3))]
    space = {"base": {"grid": two}, "training.lr": {"grid": [1e-3, 1e-5]}}
    spec = a_spec(tmp_path, {"space": space, "register": 4})
    notes: list[str] = []
    pool = FakePool()
    outcome = searched(spec, pool, lambda event: notes.append(event.message) if isinstance(event, Note) else None)
    store = open_store(spec.store)
    record = SearchStore(store, search_name(spec)).record()
    assert record is not None
    pinned = {base: locate(base).hash for base in two}
    assert {base: known["hash"] for base, known in record.bases.items()} == pinned
    assert {base.reference: base.hash for base in pool.job.bases} == pinned
    assert [row["base"] for row in outcome.bases] and {row["base"] for row in outcome.bases} == set(two)
    assert {row["trials"] for row in outcome.bases} == {2}
    trials = {trial["id"]: trial["overrides"]["base"] for trial in outcome.trials}
    versions = Registry(store).versions("tiny")
    assert len(versions) == 4
    for version in versions:
        base = trials[version.meta["lineage"]["search"]["trial"]]
        assert (version.meta["base"]["reference"], version.meta["base"]["hash"]) == (base, pinned[base])
        own = yaml.safe_load((tmp_path / "store" / version.prefix / "spec.yaml").read_text())
        assert own["base"] == base and "search" not in own
    assert searched(spec, FakePool()).already
    tiny_bert(tmp_path / "large", layers=3, seed=99)
    with pytest.raises(WrongBase, match="began with that one; --fresh starts another search"):
        searched(spec, pool)
    assert len(pool.ran) == 4, "nothing runs with another base"


def test_the_record_of_a_search_of_one_base_is_as_it_was() -> None:
    record = search(baselines={"majority": {"accuracy": 0.5}})
    assert "bases" not in record.document()
    record.add_baselines({"nearest_centroid": {"accuracy": 0.7}}, "ff")
    assert record.baselines == {"majority": {"accuracy": 0.5}, "nearest_centroid": {"accuracy": 0.7}}
    trial = TrialRecord("t0000", 0, {})
    assert record.seen_from(trial) is record and record.baseline_correct == "ff"


def test_each_base_has_its_own_baselines() -> None:
    record = search(bases={"org/a": {"hash": "1"}, "org/b": {"hash": "2"}}, base="org/a", base_hash="1")
    for base, accuracy in (("org/a", 0.7), ("org/b", 0.8)):
        found = {"majority": {"accuracy": 0.5}, "nearest_centroid": {"accuracy": accuracy}}
        record.add_baselines(found, f"of {base}", base)
    seen = record.seen_from(TrialRecord("t0001", 1, {"base": "org/b"}))
    assert (seen.base, seen.base_hash, seen.baseline_correct) == ("org/b", "2", "of org/b")
    assert seen.baselines == {"majority": {"accuracy": 0.5}, "nearest_centroid": {"accuracy": 0.8}}
    assert record.baselines == {"majority": {"accuracy": 0.5}} and record.baseline_correct == ""


def test_a_job_crosses_processes_and_falls_apart_into_those_of_single_bases() -> None:
    bases = (JobBase("org/a", "1", (2, "feature-extraction")), JobBase("org/b", "2"))
    job = SearchJob({"base": "org/b"}, "s", "2", "rows", ("x",), (1,), 2, bases)
    document = json.loads(json.dumps(job, default=vars_of))
    assert SearchJob.read(document) == job
    first, second = job.apart()
    assert (first.spec["base"], first.base_hash, first.depths, first.sharing) == ("org/a", "1", bases[0].depths, 2)
    assert second.apart() == (second,)


def vars_of(value: Any) -> Any:
    """Return a dataclass as a mapping, for JSON."""
    return {name: getattr(value, name) for name in value.__slots__}


def test_a_point_that_is_no_spec_is_left_to_its_trial() -> None:
    spec = spec_with({"base": ["org/a"], **RATES})
    assert with_blocks({"org/a": 2}).admits(spec, {"base": "org/a", "training.lr": -1})
    assert not with_blocks({"org/a": 2}).admits(spec, {"base": "org/a", "method.depth": 3})
    with pytest.raises(RequestError):
        spec.override({"training.lr": -1})
    assert isinstance(RandomPoints(spec).point(0), dict)
    assert GridPoints(spec_with({"base": {"grid": ["org/a"]}})).point(0) == {"base": "org/a"}


# Places and points.


def checked_out(folder: Path, store: str) -> RunSpec:
    """Write a spec with two bases beside it, as a checkout holds them, and return it as read there."""
    tiny_bert(folder / "bases/a")
    tiny_bert(folder / "bases/b", layers=3, seed=3)
    space = {"base": {"grid": ["./bases/b", "./bases/a"]}, "training.lr": {"grid": [1e-3, 1e-5]}}
    return a_spec(folder, {"space": space}).override({"store": store, "search.space": space})


def test_another_checkout_goes_on_with_a_search_whose_bases_lie_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes, pools, names, store = [], [], [], str(tmp_path / "shared")
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        spec, pool = checked_out(tmp_path / name, store), FakePool()
        outcomes.append(searched(spec, pool))
        pools.append(pool)
        names.append(search_name(spec))
    first, second = outcomes
    assert names[0] == names[1] and second.already and not pools[1].ran
    record = SearchStore(open_store(store), names[0]).record()
    assert record is not None and list(record.bases) == [str(tmp_path / f"second/bases/{name}") for name in "ab"]
    assert record.base == str(tmp_path / "second/bases/b") and record.space["base"]["grid"][0] == record.base
    for trial in SearchStore(open_store(store), names[0]).trials():
        assert trial.overrides["base"] in record.bases
    assert second.winner == first.winner


def test_a_recorded_base_that_is_not_the_searchs_is_never_taken_for_the_first() -> None:
    with pytest.raises(RequestError, match="is no base of this search"):
        with_blocks({"org/a": 2}).of({"base": "org/gone"})
    record = search(bases={"org/a": {"hash": "1"}, "org/b": {"hash": "2"}}, base="org/a", base_hash="1")
    with pytest.raises(RequestError, match="2 bases are recorded and 1 are written"):
        record.move_bases(["org/a"], [])


def test_a_grid_comes_to_a_base_after_any_number_of_points_that_another_lacks() -> None:
    rates = [1e-5 * (1 + number) for number in range(40)]
    grids = {"base": ["org/a", "org/b"], "method.depth": [2, 8], "training.lr": rates, "training.seed": list(range(30))}
    spec = spec_with({name: {"grid": values} for name, values in grids.items()}).override({"search.sampler": "grid"})
    bases = with_blocks({"org/a": 2, "org/b": 9})
    tried = study(spec)
    tried.admits = lambda overrides: overrides["base"] == "org/b" or overrides["method.depth"] == 2
    tried.restore([TrialRecord(f"t{n:04}", n, {"base": "org/a", "n": n}, "finished") for n in range(1200)])
    following = tried.suggest()
    assert following is not None and following[0].overrides["base"] == "org/b"
    assert bases.admits(spec, following[0].overrides)
