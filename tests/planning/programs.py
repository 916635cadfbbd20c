"""Small programs in the notation of XLA's compilers."""

TPU = """\
HloModule jit_train_step, is_scheduled=true

%body (carry: (s32[], bf16[8,128], bf16[11,8,128])) -> (s32[], bf16[8,128], bf16[11,8,128]) {
  %carry = (s32[], bf16[8,128]{1,0:T(8,128)(2,1)}, bf16[11,8,128]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %count = s32[] get-tuple-element(%carry), index=0
  %x = bf16[8,128]{1,0:T(8,128)(2,1)} get-tuple-element(%carry), index=1
  %saved = bf16[11,8,128]{2,1,0:T(8,128)(2,1)} get-tuple-element(%carry), index=2
  %gathered = bf16[8,512]{1,0:T(8,128)(2,1)S(1)} all-gather(%x), channel_id=7, \
replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={1}
  %saves = bf16[11,8,128]{2,1,0:T(8,128)(2,1)} fusion(%saved, %x, %count), kind=kLoop, calls=%update, \
metadata={op_name="jit(train_step)/jvp(TimeSformer)/TimeSformer._run/while/body/blocks.step/blocks/mlp/fc1/add"}, \
backend_config={"window_config":{"estimated_cycles":"50"}}
  ROOT %out = (s32[], bf16[8,128]{1,0:T(8,128)(2,1)}, bf16[11,8,128]{2,1,0:T(8,128)(2,1)}) tuple(%count, %x, %saves)
}

%condition (carry.1: (s32[], bf16[8,128], bf16[11,8,128])) -> pred[] {
  %limit = s32[]{:T(128)} constant(11)
  %carry.1 = (s32[], bf16[8,128]{1,0:T(8,128)(2,1)}, bf16[11,8,128]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %count.1 = s32[] get-tuple-element(%carry.1), index=0
  ROOT %lt = pred[] compare(%count.1, %limit), direction=LT
}

%update (p0: bf16[11,8,128], p1: bf16[8,128], p2: s32[]) -> bf16[11,8,128] {
  %p0 = bf16[11,8,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %p1 = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(1)
  %p2 = s32[] parameter(2)
  %row = bf16[1,8,128]{2,1,0:T(8,128)(2,1)} bitcast(%p1)
  ROOT %dus = bf16[11,8,128]{2,1,0:T(8,128)(2,1)} dynamic-update-slice(%p0, %row, %p2)
}

%start (q: f32[4,96]) -> f32[4,96] {
  %q = f32[4,96]{1,0:T(4,128)} parameter(0)
  ROOT %reduced = f32[4,96]{1,0:T(4,128)} all-reduce(%q), channel_id=9, replica_groups=[2,4]<=[8], to_apply=%add
}

%all-reduce-scatter.1 (r: f32[8,128]) -> f32[2,128] {
  %r = f32[8,128]{1,0:T(8,128)} parameter(0)
  %sum = f32[8,128]{1,0:T(8,128)} all-reduce(%r), channel_id=11, replica_groups={{0,4},{1,5},{2,6},{3,7}}, to_apply=%add
  ROOT %part = f32[2,128]{1,0:T(2,128)} slice(%sum), slice={[0:2], [0:128]}
}

ENTRY %main (a: bf16[8,128], g: f32[4,96], w: f32[8,128]) -> f32[4,96] {
  %a = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %g = f32[4,96]{1,0:T(4,128)} parameter(1)
  %w = f32[8,128]{1,0:T(8,128)} parameter(2)
  %zero = s32[]{:T(128)} constant(0)
  %empty = bf16[11,8,128]{2,1,0:T(8,128)(2,1)} custom-call(), custom_call_target="AllocateBuffer"
  %initial = (s32[], bf16[8,128]{1,0:T(8,128)(2,1)}, bf16[11,8,128]{2,1,0:T(8,128)(2,1)}) tuple(%zero, %a, %empty)
  %loop = (s32[], bf16[8,128]{1,0:T(8,128)(2,1)}, bf16[11,8,128]{2,1,0:T(8,128)(2,1)}) while(%initial), \
condition=%condition, body=%body
  %prefetched = (f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%w)
  %arrived = f32[8,128]{1,0:T(8,128)S(1)} copy-done(%prefetched)
  %begun = f32[4,96]{1,0:T(4,128)} fusion(%g), kind=kCustom, calls=%start, \
metadata={op_name="jit(train_step)/transpose(jvp(TimeSformer))/checkpoint/rematted_computation/blocks_0/attn.mix/cond/branch_0_fun/\
qkv/BGLD,Dhd->BGhLd/dot_general"}
  %scattered = f32[2,128]{1,0:T(2,128)} fusion(%arrived), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %ended = f32[4,96]{1,0:T(4,128)} fusion(%begun), kind=kCustom, calls=%start, \
backend_config={"window_config":{"estimated_cycles":"1000"}}
}
"""
"""A program for 8 TPUs with a loop of 11 iterations, which saves an array in each.

One collective is in the loop, one runs asynchronously in two fusions, one is a reduce-scatter.
"""

BRANCHES = """\
HloModule jit_train_step, is_scheduled=true

%first (none: ()) -> s32[] {
  %none = () parameter(0)
  %zero = s32[]{:T(128)} constant(0)
  ROOT %chosen = s32[]{:T(128)} copy(%zero)
}

%second (none.1: ()) -> s32[] {
  %none.1 = () parameter(0)
  %zero.1 = s32[]{:T(128)} constant(0)
  ROOT %chosen.1 = s32[]{:T(128)} copy(%zero.1)
}

%backward (arrays: (f32[4,96])) -> f32[4,96] {
  %arrays = (f32[4,96]{1,0:T(4,128)}) parameter(0)
  %y = f32[4,96]{1,0:T(4,128)} get-tuple-element(%arrays), index=0
  %transposed = f32[4,96]{1,0:T(4,128)} copy(%y), backend_config={"estimated_cycles":"300"}
  %attention_backward = f32[4,96]{1,0:T(4,128)} custom-call(%transposed), custom_call_target="tpu_custom_call", \
backend_config={"custom_call_config":{"cost_estimate":{"flops":"1000000000"}}}
  %sent = f32[4,96]{1,0:T(4,128)} collective-permute(%attention_backward), channel_id=3, \
source_target_pairs={{0,1},{1,2},{2,3},{3,0}}
  ROOT %product = f32[4,96]{1,0:T(4,128)} fusion(%sent), kind=kOutput, calls=%fused, backend_config={"estimated_cycles":"700"}
}

%fused (z: f32[4,96]) -> f32[4,96] {
  %z = f32[4,96]{1,0:T(4,128)} parameter(0)
  ROOT %dot = f32[4,96]{1,0:T(4,128)} negate(%z), backend_config={"estimated_cycles":"600"}
}

ENTRY %main (x: f32[4,96]) -> f32[4,96] {
  %x = f32[4,96]{1,0:T(4,128)} parameter(0)
  %platform = s32[]{:T(128)} constant(0)
  %nothing = () tuple()
  %index = s32[]{:T(128)} conditional(%platform, %nothing, %nothing), branch_computations={%first, %second}
  %before = f32[4,96]{1,0:T(4,128)} copy(%x), backend_config={"estimated_cycles":"20"}
  %arguments = (f32[4,96]{1,0:T(4,128)}) tuple(%before)
  ROOT %gradient = f32[4,96]{1,0:T(4,128)} conditional(%index, %arguments), branch_computations={%backward}
}
"""
"""A program for 4 TPUs whose backward pass of attention is the only branch of a condition.

XLA:TPU leaves such conditions where a checkpoint hides a choice by platform from it.
"""
