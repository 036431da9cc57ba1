"""The catalogue of instance types: what ships holds, and what a user adds is checked with its entry named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tasks.contracts import digest_of
from tasks.errors import BadInput
from tasks.smoke.catalogue import (
    CATALOGUE_FILE,
    LEVELS,
    OWN_FILE_VARIABLE,
    instance_type,
    load_catalogue,
    read_catalogue,
)
from tasks.smoke.hardware import CpuGeneration

SHIPPED = read_catalogue(CATALOGUE_FILE)
CPUS = {cpu.name: cpu for kind in SHIPPED.values() for cpu in kind.cpus}

OWN = """
sources:
  lab: {title: Inventory, url: "https://lab.example.com/inventory"}
types:
  lab-box: {provider: lab, vcpus: 2, memory_gib: 1.5, cpus: [haswell], sources: [lab]}
"""


def own_file(folder: Path, text: str) -> Path:
    path = folder / "own.yaml"
    path.write_text(text)
    return path


def problems(folder: Path, text: str) -> str:
    with pytest.raises(BadInput) as caught:
        read_catalogue(CATALOGUE_FILE, own_file(folder, text))
    return str(caught.value)


def reached(cpu: CpuGeneration) -> list[str]:
    """The levels of x86-64 whose features a processor has all of, lowest first."""
    return [name for name, needed in LEVELS.items() if name.startswith("x86") and needed <= set(cpu.features)]


def test_types_of_every_provider_and_generation_are_there() -> None:
    assert len(SHIPPED) >= 40
    assert {kind.provider for kind in SHIPPED.values()} == {"aws", "gcp", "azure"}
    assert {"ivy-bridge", "haswell", "skylake-sp", "ice-lake-sp", "sapphire-rapids", "emerald-rapids"} <= set(CPUS)
    assert {"zen2", "zen3", "zen4", "graviton2", "graviton3", "graviton4", "ampere-altra", "axion"} <= set(CPUS)
    models = {kind.gpu.model for kind in SHIPPED.values() if kind.gpu}
    assert {"NVIDIA T4", "NVIDIA L4", "NVIDIA A10G", "NVIDIA V100", "NVIDIA A100", "NVIDIA H100"} <= models


def test_every_fact_of_a_shipped_type_has_its_source() -> None:
    for kind in SHIPPED.values():
        said = [kind.sources, *(cpu.sources for cpu in kind.cpus), *([kind.gpu.sources] if kind.gpu else [])]
        assert all(sources and len(set(sources)) == len(sources) for sources in said), kind.name


def test_no_source_is_listed_for_nothing() -> None:
    text = yaml.safe_load(CATALOGUE_FILE.read_text())
    cited = {name for kind in ("cpus", "gpus", "types") for entry in text[kind].values() for name in entry["sources"]}
    assert cited == set(text["sources"])


@pytest.mark.parametrize("cpu", [cpu for cpu in CPUS.values() if cpu.architecture == "amd64"], ids=lambda cpu: cpu.name)
def test_a_processor_s_level_is_the_highest_that_its_features_reach(cpu: CpuGeneration) -> None:
    assert cpu.level == reached(cpu)[-1]


@pytest.mark.parametrize("cpu", CPUS.values(), ids=lambda cpu: cpu.name)
def test_emulation_is_promised_exactly_where_user_mode_executes_the_level(cpu: CpuGeneration) -> None:
    executed = not any(name.startswith(("avx512", "sve")) for name in cpu.features)
    assert (cpu.emulation is not None) == executed


def test_an_arm_processor_is_no_less_than_an_older_one() -> None:
    older, newer = set(CPUS["graviton2"].features), set(CPUS["graviton3"].features)
    assert older < newer < set(CPUS["graviton4"].features)


def test_a_generation_that_the_provider_added_later_is_listed() -> None:
    assert {cpu.name for cpu in SHIPPED["Standard_D2as_v5"].cpus} == {"zen3", "zen4"}
    assert SHIPPED["Standard_D2as_v5"].level == "x86-64-v3"


def test_a_generation_that_the_provider_no_longer_names_is_still_listed() -> None:
    assert {cpu.name for cpu in SHIPPED["e2-standard-2"].cpus} == {"haswell", "broadwell", "skylake-sp", "zen2", "zen3"}
    assert {cpu.name for cpu in SHIPPED["n2d-standard-2"].cpus} == {"zen2", "zen3"}


def test_of_two_sizes_that_a_provider_gave_the_smaller_one_counts() -> None:
    assert SHIPPED["r3.large"].memory_bytes == 15 * 2**30


def test_no_price_is_invented() -> None:
    assert all(kind.price is None for kind in SHIPPED.values())


def test_a_driver_is_bounded_only_by_the_last_branch_that_knows_the_gpu() -> None:
    kepler = SHIPPED["p2.xlarge"].gpu
    assert kepler is not None
    assert kepler.driver.allows("470.256.02")
    assert not kepler.driver.allows("525.60.13")
    turing = SHIPPED["g4dn.xlarge"].gpu
    assert turing is not None
    assert turing.driver.allows("999.1")
    assert not turing.driver.guarantees("1.0")


def test_figures_are_in_bytes() -> None:
    assert load_catalogue()["c4.large"].memory_bytes == 3.75 * 2**30


def test_a_type_is_only_as_good_as_its_weakest_cpu() -> None:
    mixed = load_catalogue()["c5.large"]
    assert {cpu.name for cpu in mixed.cpus} == {"skylake-sp", "cascade-lake"}
    assert "avx512f" in mixed.features
    assert "avx512_vnni" not in mixed.features
    assert load_catalogue()["Standard_D2s_v3"].level == "x86-64-v3"


def test_a_type_has_one_identity_in_every_process() -> None:
    features = load_catalogue()["c7i.large"].cpus[0].features
    assert list(features) == sorted(features)
    assert digest_of(load_catalogue()["c7i.large"]) == digest_of(load_catalogue()["c7i.large"])


def test_users_add_types_that_use_slipways_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_INSTANCE_TYPES", str(own_file(tmp_path, OWN)))
    assert instance_type("lab-box").level == "x86-64-v3"
    assert "c6i.large" in load_catalogue()


def test_an_unknown_type_is_bad_input_with_the_nearest_names() -> None:
    with pytest.raises(BadInput, match=r"did you mean c6i\.large"):
        instance_type("c6i.larg")


def test_a_missing_own_file_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_INSTANCE_TYPES", str(tmp_path / "none.yaml"))
    with pytest.raises(BadInput, match="cannot be read"):
        load_catalogue()


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("{provider: lab, vcpus: 0, memory_gib: 1, cpus: [haswell], sources: [psabi]}", "types.box.vcpus"),
        ("{provider: lab, vcpus: 1, memory_gib: -1, cpus: [haswell], sources: [psabi]}", "types.box.memory_gib"),
        ("{provider: lab, vcpus: 1, memory_gib: 1, cpus: [haswel], sources: [psabi]}", "did you mean haswell?"),
        ("{provider: lab, vcpus: 1, memory_gib: 1, cpus: [], sources: [psabi]}", "types.box.cpus"),
        ("{provider: lab, vcpus: 1, memory_gib: 1, cpus: [haswell], sources: []}", "types.box.sources"),
        ("{provider: lab, vcpus: 1, memory_gib: 1, cpus: [haswell], sources: [nowhere]}", "no source 'nowhere'"),
        ("{provider: lab, vcpus: 1, memory_gib: 1, cpus: [haswell, graviton3], sources: [psabi]}", "several archi"),
        ("{provider: lab, vcpus: 1, memory_gib: 1, cpu: haswell, sources: [psabi]}", "types.box.cpu"),
        ("text", "types.box"),
    ],
)
def test_a_wrong_type_is_named(tmp_path: Path, entry: str, expected: str) -> None:
    message = problems(tmp_path, f"types:\n  box: {entry}\n")
    assert expected in message
    assert "own.yaml" in message


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("{vendor: intel, architecture: amd64, level: x86-64-v9, sources: [psabi]}", "is none of"),
        ("{vendor: intel, architecture: arm64, level: x86-64-v3, sources: [psabi]}", "not one of arm64"),
        ("{vendor: via, architecture: amd64, level: x86-64-v3, sources: [psabi]}", "cpus.mine.vendor"),
    ],
)
def test_a_wrong_cpu_is_named(tmp_path: Path, entry: str, expected: str) -> None:
    message = problems(tmp_path, f"cpus:\n  mine: {entry}\n")
    assert "cpus.mine" in message
    assert expected in message


ZEN = "vendor: amd, architecture: amd64, sources: [psabi]"
ARM = "vendor: arm, architecture: arm64, sources: [gcc-arm]"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (f"{{{ZEN}, level: x86-64-v3, features: [flying], emulation: EPYC}}", "no feature 'flying' is known"),
        (f"{{{ZEN}, level: x86-64-v4, features: [avx512_vnn]}}", "did you mean avx512_vnni?"),
        (f"{{{ZEN}, level: x86-64-v3, features: [avx512f], emulation: EPYC}}", "EPYC does not execute avx512f"),
        (f"{{{ZEN}, level: x86-64-v3, features: [flying, avx512f], emulation: EPYC}}", "EPYC does not execute avx512f"),
        (f"{{{ZEN}, level: x86-64-v3, features: [amx_tile], emulation: EPYC}}", "EPYC does not execute amx_tile"),
        (f"{{{ZEN}, level: x86-64-v4, emulation: EPYC}}", "EPYC does not execute avx512bw"),
        (f"{{{ZEN}, level: x86-64-v2, emulation: EPYC}}", "EPYC also has abm, avx, avx2"),
        (f"{{{ZEN}, level: x86-64-v3, emulation: Haswell}}", "Haswell is of intel"),
        (f"{{{ZEN}, level: x86-64-v3, emulation: max}}", "Haswell, Broadwell, EPYC, EPYC-Rome"),
        (f"{{{ZEN}, level: x86-64-v3, features: [sve]}}", "'sve' is one of arm64"),
        (f"{{{ARM}, level: armv8-a, features: [avx2]}}", "'avx2' is one of amd64"),
        (f"{{{ARM}, level: armv8.2-a, features: [asimddp, asimdhp], emulation: EPYC}}", "cortex-a72, neoverse-n1"),
        (f"{{{ARM}, level: armv8.4-a, features: [asimddp, asimdhp], emulation: neoverse-n1}}", "is armv8.2-a"),
        (f"{{{ARM}, level: x86-64-v3}}", "not one of arm64"),
        ("{vendor: arm, architecture: amd64, level: x86-64-v3, sources: [psabi]}", "vendor arm makes none of amd64"),
        ("{vendor: amd, architecture: arm64, level: armv8-a, sources: [psabi]}", "vendor amd makes none of arm64"),
    ],
)
def test_a_processor_that_nothing_could_prove_is_refused(tmp_path: Path, entry: str, expected: str) -> None:
    message = problems(tmp_path, f"cpus:\n  mine: {entry}\n")
    assert "cpus.mine: " in message
    assert expected in message


def test_a_processor_that_an_emulated_model_is_like_is_taken(tmp_path: Path) -> None:
    text = f"cpus:\n  mine: {{{ZEN}, level: x86-64-v3, emulation: EPYC}}\ntypes:\n  box: "
    box = "{provider: lab, vcpus: 1, memory_gib: 1, cpus: [mine], sources: [psabi]}\n"
    assert read_catalogue(CATALOGUE_FILE, own_file(tmp_path, text + box))["box"].cpus[0].emulation == "EPYC"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("memory_gib", ".inf", "expected a number that is finite"),
        ("memory_gib", ".nan", "expected a number that is finite"),
        ("memory_gib", "1e300", "expected at most 65536, found the number"),
        ("memory_gib", "0.001", "expected at least 0.015625, found the number"),
        ("memory_gib", "true", "expected a number, found true"),
        ("vcpus", "1e-9", "expected at least 0.1, found the number"),
        ("vcpus", "1e9", "expected at most 4096, found the number"),
        ("vcpus", "true", "expected a number, found true"),
        ("vcpus", "'2'", "expected a number, found the text '2'"),
        ("cpus", "haswell", "expected a list of names, found the text 'haswell'"),
        ("cpus", "[]", "expected at least one, found an empty list"),
    ],
)
def test_what_no_machine_has_is_refused_with_its_key(tmp_path: Path, key: str, value: str, expected: str) -> None:
    entry = {"provider": "lab", "vcpus": "1", "memory_gib": "1", "cpus": "[haswell]", "sources": "[psabi]", key: value}
    inside = ", ".join(f"{name}: {said}" for name, said in entry.items())
    message = problems(tmp_path, f"types:\n  box: {{{inside}}}\nprices:\n  c6i.larg: {{per_hour: 1, currency: USD}}\n")
    assert f"types.box.{key}: {expected}" in message
    assert "prices.c6i.larg" in message  # one mistake hides no other


def test_the_same_processor_twice_is_refused(tmp_path: Path) -> None:
    entry = "{provider: lab, vcpus: 1, memory_gib: 1, cpus: [haswell, haswell], sources: [psabi]}"
    assert "types.box: cpu haswell is there twice" in problems(tmp_path, f"types:\n  box: {entry}\n")


@pytest.mark.parametrize("name", ["'two words'", "a/b", "-box", "''", "x" * 64])
def test_a_type_is_called_what_a_node_s_label_can_say(tmp_path: Path, name: str) -> None:
    entry = "{provider: lab, vcpus: 1, memory_gib: 1, cpus: [haswell], sources: [psabi]}"
    assert "cannot be the value of a node's label" in problems(tmp_path, f"types:\n  {name}: {entry}\n")


def test_the_form_and_the_names_in_one_file_are_told_together(tmp_path: Path) -> None:
    message = problems(
        tmp_path,
        "kinds: {}\nsources: [x]\ncpus:\n  mine: {vendor: amd, architecture: amd64, sources: [nowhere]}\n"
        "types:\n  box: {provider: lab, vcpu: 1, memory_gib: 1, cpus: [haswel, mine], sources: [elsewhere]}\n",
    )
    for expected in (
        "kinds: no such section",
        "sources: expected a mapping of names, found a list of 1",
        "cpus.mine.level: is missing",
        "cpus.mine: no source 'nowhere'",
        "types.box.vcpus: is missing",
        "types.box.vcpu: is no key that belongs here: did you mean vcpus?",
        "types.box: no cpu 'haswel': did you mean haswell?",
        "types.box: no source 'elsewhere'",
    ):
        assert expected in message
    assert "no cpu 'mine'" not in message  # its own entry says why it is not there


def test_mistakes_are_told_in_words_of_ours(tmp_path: Path) -> None:
    texts = [
        "types: {box: text}\n",
        "types: {box: {provider: 1, vcpus: x, memory_gib: [], cpus: {}, sources: 1, gpu: 3}}\n",
        "prices: {c6i.large: {per_hour: true, currency: dollars}}\ndrivers: {g5.xlarge: newest}\n",
        "sources: {lab: {title: '', url: ftp://x}}\ngpus: {a: {model: A, memory_gib: 1, driver: {min: 9, max: '8'}}}\n",
        "types: {}\ntypes: {}\n",
        "{",
        "",
        "- a",
    ]
    for text in texts:
        message = problems(tmp_path, text)
        for theirs in (
            "valid ",
            "nput should",
            "instance of",
            "Tuple",
            "Value error",
            "suppress",
            "Problem(",
            "attern",
        ):
            assert theirs not in message, message


def test_shipped_names_are_not_replaced_silently(tmp_path: Path) -> None:
    text = "types:\n  c4.large: {provider: lab, vcpus: 64, memory_gib: 512, cpus: [zen4], sources: [psabi]}\n"
    assert "types.c4.large: the name is taken" in problems(tmp_path, text)


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    message = problems(tmp_path, "types:\n  one: {}\n  two: {}\n")
    assert "types.one.vcpus" in message
    assert "types.two.vcpus" in message


@pytest.mark.parametrize("text", ["- a list", "{", "", "kinds: {}"])
def test_a_file_of_another_form_is_refused(tmp_path: Path, text: str) -> None:
    assert "own.yaml" in problems(tmp_path, text)


def test_a_price_is_said_for_a_shipped_type_and_for_an_own_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prices = "prices:\n  c6i.large: {per_hour: 0.085, currency: USD}\n  lab-box: {per_hour: 1, currency: EUR}\n"
    monkeypatch.setenv("SLIPWAY_INSTANCE_TYPES", str(own_file(tmp_path, OWN + prices)))
    known = load_catalogue()
    assert [(known[name].price.per_hour, known[name].price.currency) for name in ("c6i.large", "lab-box")] == [
        (0.085, "USD"),
        (1.0, "EUR"),
    ]
    assert known["c6a.large"].price is None


def test_a_new_price_makes_no_earlier_result_worthless(tmp_path: Path) -> None:
    own = own_file(tmp_path, "prices:\n  c6i.large: {per_hour: 0.085, currency: USD}\n")
    priced = read_catalogue(CATALOGUE_FILE, own)["c6i.large"]
    assert priced != SHIPPED["c6i.large"]
    assert digest_of(priced) == digest_of(SHIPPED["c6i.large"])


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("c6i.larg: {per_hour: 1, currency: USD}", "did you mean c6i.large?"),
        ("c6i.large: {per_hour: 0, currency: USD}", "prices.c6i.large.per_hour"),
        ("c6i.large: {per_hour: .nan, currency: USD}", "prices.c6i.large.per_hour"),
        ("c6i.large: {per_hour: 1, currency: dollars}", "prices.c6i.large.currency"),
        ("c6i.large: {per_hour: 1}", "prices.c6i.large.currency"),
    ],
)
def test_a_wrong_price_is_named(tmp_path: Path, entry: str, expected: str) -> None:
    assert expected in problems(tmp_path, f"prices:\n  {entry}\n")


def test_the_driver_of_one_s_own_nodes_is_said_for_a_shipped_type(tmp_path: Path) -> None:
    gpu = read_catalogue(CATALOGUE_FILE, own_file(tmp_path, "drivers: {g5.xlarge: 550.90.07}\n"))["g5.xlarge"].gpu
    assert gpu is not None
    assert gpu.driver.guarantees("550.54.14")
    assert not gpu.driver.allows("560.28.03")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("c6i.large: 550.90.07", "it has no GPU"),
        ("p2.xlarge: 525.60.13", "is newer than 470"),
        ("g5.xlarg: 550.90.07", "did you mean g5.xlarge?"),
        ("g5.xlarge: newest", "drivers.g5.xlarge"),
        ("g5.xlarge: 570.26", 'in quotes, "570.26"'),
    ],
)
def test_a_wrong_driver_is_named(tmp_path: Path, entry: str, expected: str) -> None:
    assert expected in problems(tmp_path, f"drivers: {{{entry}}}\n")


def test_a_type_with_an_unknown_gpu_is_named(tmp_path: Path) -> None:
    entry = "{provider: lab, vcpus: 1, memory_gib: 1, cpus: [haswell], gpu: {model: a10}, sources: [psabi]}"
    assert "types.box: no gpu 'a10': did you mean a10g?" in problems(tmp_path, f"types:\n  box: {entry}\n")


def test_this_machine_is_a_type_that_users_may_give_a_price(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = own_file(tmp_path, "prices:\n  this-machine: {per_hour: 0.1, currency: EUR}\n")
    monkeypatch.setenv(OWN_FILE_VARIABLE, str(own))
    kind = instance_type("this-machine")
    assert (kind.provider, kind.price is not None) == ("local", True)
    taken = "types:\n  this-machine: {provider: lab, vcpus: 1, memory_gib: 1, cpus: [zen4], sources: [psabi]}\n"
    monkeypatch.setenv(OWN_FILE_VARIABLE, str(own_file(tmp_path, taken)))
    with pytest.raises(BadInput, match="this-machine: the name is taken"):
        load_catalogue()
