from __future__ import annotations

import pytest

from tasks.errors import BadInput
from tasks.export.formats import formats_of
from tasks.narrowing import narrowed, refuse_unknown
from tests import samples


def test_an_empty_choice_keeps_what_the_spec_says() -> None:
    spec = samples.spec()
    assert narrowed(spec, (), ()) == spec


def test_a_choice_takes_the_place_of_the_specs_own() -> None:
    chosen = narrowed(samples.spec(), ["savedmodel"], ["c5.large", "c5.large"])
    assert chosen.formats == ("savedmodel",)
    assert chosen.smoke.instance_types == ("c5.large",)


def test_all_is_what_the_framework_can_give() -> None:
    assert narrowed(samples.spec(), ["all"], ()).formats == formats_of(samples.spec().source.framework)


def test_all_beside_a_name_is_refused() -> None:
    with pytest.raises(BadInput, match="all stands alone"):
        narrowed(samples.spec(), ["all", "onnx"], ())


def test_another_choice_is_another_spec() -> None:
    spec = samples.spec()
    assert narrowed(spec, ["onnx"], ()).digest != spec.digest


def test_everything_that_cannot_be_is_said_at_once() -> None:
    with pytest.raises(BadInput) as refused:
        narrowed(samples.spec(), ["onx", "torch-export"], ["c5.larg", "c6i.large"])
    lines = str(refused.value).splitlines()
    assert len(lines) == 3
    assert "'onx': did you mean onnx?" in lines[0]
    assert "'torch-export'" in lines[1]
    assert "c5.large" in lines[2]


def test_a_parameter_that_does_not_exist_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadInput, match="'format'; did you mean formats"):
        refuse_unknown({"spec": "model.yaml", "format": ["onnx"]}, ("spec", "formats", "fresh"))
    refuse_unknown({"spec": "model.yaml"}, ("spec", "formats"))
