"""Reading programs: types, replica groups, windows, loops; small texts in the forms that XLA prints."""

import pytest

from pagnol_jax.tpu.cost import Accountant
from pagnol_jax.tpu.hlo import Array, arrays, parse
from pagnol_jax.tpu.traffic import replica_groups

AXES, MESH = ("data", "fsdp", "tensor", "sequence"), (2, 2, 2, 1)


def test_types_with_layouts_and_tuples() -> None:
    text = "(bf16[8,128]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/f32[]{:T(128)}, s8[1,2,2]{2,1,0})"
    assert arrays(text) == (
        Array("bf16", (8, 128), 2048, 2048, False),
        Array("f32", (), 4, 4, True),
        Array("s8", (1, 2, 2), 4, 4, True),
    )


def test_tiles_are_whole_in_memory() -> None:
    """25 heads of 64, in four layouts: a tile holds 8 x 128 of the two most minor dimensions."""
    values = 2 * 2048 * 25 * 64 * 2
    rooms = {"3,1,2,0:T(8,128)(2,1)": 2, "1,3,2,0:T(8,128)(2,1)": 1, "3,2,1,0:T(8,128)(2,1)": 2 * 32 / 25, "3,1,2,0": 1}
    for layout, factor in rooms.items():
        (array,) = arrays(f"bf16[2,2048,25,64]{{{layout}}}")
        assert (array.bytes, array.room) == (values, factor * values)
    assert [array.room for array in arrays("(f32[8]{0:T(256)}, s8[100]{0:T(1024)(128)(4,1)})")] == [1024, 1024]


@pytest.mark.parametrize(
    ("form", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_0'}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_0','axis_1'}", [[0, 1, 2, 3]]),
        ("replica_groups=mesh['axis_0'=4] {'axis_0':(2)2}", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['axis_0'=4] {'axis_0':(1)2}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=2], device_ids=([2,2]T(1,0)) {'axis_0'}", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=2], device_ids=(0,3,1,2) {'axis_1'}", [[0, 3], [1, 2]]),
        ("replica_groups={}", [[0, 1, 2, 3]]),
    ],
)
def test_replica_groups(form: str, groups: list[list[int]]) -> None:
    assert replica_groups(f"channel_id=1, {form}, use_global_device_ids=true", 4) == groups


LOOP = """HloModule m

%body (p: (s32[], f32[16,16])) -> (s32[], f32[16,16]) {
  %p = (s32[], f32[16,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[16,16]{1,0} get-tuple-element(%p), index=1
  %one = s32[] constant(2)
  %next = s32[] add(%i, %one)
  %y = f32[16,16]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="a
}
odd"}
  ROOT %t = (s32[], f32[16,16]{1,0}) tuple(%next, %y)
}

%condition (q: (s32[], f32[16,16])) -> pred[] {
  %q = (s32[], f32[16,16]{1,0}) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  %limit = s32[] constant(7)
  ROOT %less = pred[] compare(%j, %limit), direction=LT
}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %s = f32[] add(%a, %b)
}

ENTRY %main (z: f32[16,16]) -> f32[16,16] {
  %z = f32[16,16]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], f32[16,16]{1,0}) tuple(%zero, %z)
  %w = (s32[], f32[16,16]{1,0}) while(%start), condition=%condition, body=%body
  %out = f32[16,16]{1,0} get-tuple-element(%w), index=1
  ROOT %sum = f32[16,16]{1,0} all-reduce(%out), channel_id=1, replica_groups=[4,2]<=[4,2], to_apply=%add
}
"""


def test_an_unknown_form_of_groups_is_an_error() -> None:
    with pytest.raises(ValueError, match="another form"):
        replica_groups("replica_groups=@mesh_1, x=y", 4)


def test_loops_are_multiplied_and_line_breaks_in_metadata_read() -> None:
    """Seven by twos: four times."""
    text = LOOP.replace('metadata={op_name="a\n}\nodd"}', 'metadata={op_name="a\n}}\nodd"}')
    cost = Accountant(parse(text), AXES, MESH).total()
    assert cost.flops == 4 * 2 * 16**3
    assert cost.traffic == {("all-reduce", ("tensor",)): 2 * 1024 / 2}


def test_a_loop_without_a_constant_limit_is_told() -> None:
    text = LOOP.replace('metadata={op_name="a\n}\nodd"}', "").replace("constant(7)", "custom-call(), odd")
    with pytest.raises(ValueError, match="compares no counter with a constant"):
        Accountant(parse(text), AXES, MESH).total()
