//! Loops and branches.
//!
//! Values leave a region only as carried values: any [`Carry`], from nothing to a vector of values, so that an
//! accumulator tile is one thing.

use melior::ir::Attribute;
use melior::ir::block::BlockLike;
use melior::ir::{Block, BlockRef, Region, RegionLike};

use crate::ffi;
use crate::types::{Elem, I64, Ty};

use super::{Builder, Operand, Val, first_block};

/// What LLVM may do with the rounds of a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unroll {
    /// Unroll where it finds that worthwhile.
    AsLlvmLikes,
    /// Nothing: a round takes all registers there are, and two at once would spill them.
    Never,
}

/// A group of values that a loop carries or a branch yields.
pub trait Carry<'k> {
    /// Its values in order.
    fn values(&self) -> Vec<Val<'k>>;
    /// The same shape holding other values; the iterator has as many as [`values`](Carry::values) gave.
    fn with(&self, values: &mut dyn Iterator<Item = Val<'k>>) -> Self;
}

fn next<'k>(values: &mut dyn Iterator<Item = Val<'k>>) -> Val<'k> {
    values.next().expect("as many values as the shape has")
}

impl<'k> Carry<'k> for () {
    fn values(&self) -> Vec<Val<'k>> {
        Vec::new()
    }

    fn with(&self, _: &mut dyn Iterator<Item = Val<'k>>) -> Self {}
}

impl<'k> Carry<'k> for Val<'k> {
    fn values(&self) -> Vec<Val<'k>> {
        vec![*self]
    }

    fn with(&self, values: &mut dyn Iterator<Item = Val<'k>>) -> Self {
        next(values)
    }
}

impl<'k, T: Carry<'k>, const N: usize> Carry<'k> for [T; N] {
    fn values(&self) -> Vec<Val<'k>> {
        self.iter().flat_map(T::values).collect()
    }

    fn with(&self, values: &mut dyn Iterator<Item = Val<'k>>) -> Self {
        std::array::from_fn(|index| self[index].with(values))
    }
}

impl<'k, T: Carry<'k>> Carry<'k> for Vec<T> {
    fn values(&self) -> Vec<Val<'k>> {
        self.iter().flat_map(T::values).collect()
    }

    fn with(&self, values: &mut dyn Iterator<Item = Val<'k>>) -> Self {
        self.iter().map(|part| part.with(values)).collect()
    }
}

impl<'k, A: Carry<'k>, B: Carry<'k>> Carry<'k> for (A, B) {
    fn values(&self) -> Vec<Val<'k>> {
        [self.0.values(), self.1.values()].concat()
    }

    fn with(&self, values: &mut dyn Iterator<Item = Val<'k>>) -> Self {
        (self.0.with(values), self.1.with(values))
    }
}

impl<'k, A: Carry<'k>, B: Carry<'k>, C: Carry<'k>> Carry<'k> for (A, B, C) {
    fn values(&self) -> Vec<Val<'k>> {
        [self.0.values(), self.1.values(), self.2.values()].concat()
    }

    fn with(&self, values: &mut dyn Iterator<Item = Val<'k>>) -> Self {
        (self.0.with(values), self.1.with(values), self.2.with(values))
    }
}

fn types<'k>(values: &[Val<'k>]) -> Vec<Ty> {
    values.iter().map(|val| val.ty).collect()
}

impl<'k> Builder<'k> {
    /// `body(i)` for `i` (64-bit) from `low` below `high` in steps of `step` (positive).
    #[track_caller]
    pub fn for_(&'k self, low: impl Operand<'k>, high: impl Operand<'k>, step: impl Operand<'k>, body: impl FnOnce(Val<'k>)) {
        self.for_iter(low, high, step, (), |i, ()| body(i));
    }

    /// A loop that carries values: `body(i, carried)` gives what the next round carries, starting from `init`; the result is
    /// what the last round gave, or `init` if there was none.
    #[track_caller]
    pub fn for_iter<C: Carry<'k>>(
        &'k self,
        low: impl Operand<'k>,
        high: impl Operand<'k>,
        step: impl Operand<'k>,
        init: C,
        body: impl FnOnce(Val<'k>, C) -> C,
    ) -> C {
        self.loop_([low.as_type(self, I64), high.as_type(self, I64), step.as_type(self, I64)], Unroll::AsLlvmLikes, init, body)
    }

    /// [`for_iter`](Self::for_iter) from the first of `bounds` below the second in steps of the third, where the caller knows what
    /// unrolling does.
    #[track_caller]
    pub fn loop_<C: Carry<'k>>(
        &'k self,
        bounds: [Val<'k>; 3],
        unroll: Unroll,
        init: C,
        body: impl FnOnce(Val<'k>, C) -> C,
    ) -> C {
        let initial = init.values();
        let types = types(&initial);
        let arguments: Vec<_> = std::iter::once(&I64).chain(&types).map(|&ty| (self.ty(ty), self.location())).collect();
        let region = Region::new();
        region.append_block(Block::new(&arguments));
        let operands = [&bounds[..], &initial].concat();
        // Lowering hands a loop's attributes on to the branch back to its head, where LLVM looks for them.
        let attributes = match unroll {
            Unroll::AsLlvmLikes => vec![],
            Unroll::Never => vec![("loop_annotation", self.attr("#llvm.loop_annotation<unroll = <disable = true>>"))],
        };
        let operation = self.op_with_regions("scf.for", &operands, &types, &attributes, vec![region]);
        let block = first_block(operation, 0);
        let argument =
            |index: usize, ty| Val { b: self, raw: block.argument(index).expect("one argument per carried value").into(), ty };
        let index = argument(0, I64);
        let carried = init.with(&mut (0..types.len()).map(|at| argument(at + 1, types[at])));
        let next = self.within(block, || body(index, carried));
        self.finish(block, &next, &types);
        init.with(&mut (0..types.len()).map(|at| self.result(operation, at, types[at])))
    }

    /// `body()` if `condition` holds.
    #[track_caller]
    pub fn if_(&'k self, condition: Val<'k>, body: impl FnOnce()) {
        self.if_else(condition, body, || ());
    }

    /// The values of one of two branches, which must give the same types.
    #[track_caller]
    pub fn if_else<C: Carry<'k>>(&'k self, condition: Val<'k>, then: impl FnOnce() -> C, otherwise: impl FnOnce() -> C) -> C {
        assert_eq!((condition.ty.elem, condition.ty.lanes), (Elem::I1, 1), "kernel {}: branch condition", self.name);
        let regions = [Region::new(), Region::new()];
        // The types of the results are known only when both branches are built, so they are built before their operation.
        let blocks = [0, 1].map(|at: usize| ffi::adopt_block(regions[at].append_block(Block::new(&[]))));
        let first = self.within(blocks[0], then);
        let second = self.within(blocks[1], otherwise);
        let types = types(&first.values());
        self.finish(blocks[0], &first, &types);
        self.finish(blocks[1], &second, &types);
        let operation = self.op_with_regions("scf.if", &[condition], &types, &[], regions.into());
        first.with(&mut (0..types.len()).map(|at| self.result(operation, at, types[at])))
    }

    /// Runs `body` with its operations going to `block`.
    fn within<R>(&'k self, block: BlockRef<'k, 'k>, body: impl FnOnce() -> R) -> R {
        let outer = self.block.replace(block);
        let result = body();
        self.block.set(outer);
        result
    }

    #[track_caller]
    fn finish<C: Carry<'k>>(&'k self, block: BlockRef<'k, 'k>, carried: &C, expected: &[Ty]) {
        let values = carried.values();
        let types = types(&values);
        if types != expected {
            self.fail(format_args!("a region gives {types:?} where {expected:?} is carried"));
        }
        let none: &[(&str, Attribute<'k>)] = &[];
        self.within(block, || self.op("scf.yield", &values, &[], none));
    }
}
