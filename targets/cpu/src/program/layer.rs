//! What the object of a single layer exports: one function that computes it, with memory and weights of the caller.
//!
//! A layer is a program whose input is an activation where a model's is tokens. The executor is the same; its context is the caller's
//! workspace, set up anew by every call, so that nothing has to be opened.

use super::Object;
use super::entries::{is_misaligned, levels, words_differ};
use super::layout::{Base, Head, Quantity, Word, head_bytes};
use super::status::{BAD_COUNT, MISALIGNED, NULL_ARGUMENT, OK, OTHER_WEIGHTS, TOO_SMALL};
use super::walk::{RUN, unless};
use q35_bundle::ALIGN;
use q35_launch::layout::act_stride;
use q35_mlir::builder::{Builder, KernelModule, Val};
use q35_mlir::types::{F32, I32, I64, PTR};

/// Most rows of a call.
const MOST_ROWS: i64 = 1 << 30;

/// Defines the functions; the layer has so many outputs.
pub(super) fn define(module: &KernelModule<'_>, object: &Object<'_>) {
    levels(module, object);
    module.routine(&object.symbol("workspace_size"), &[I64], I64, true, |b, args| {
        unless(b, args[0].lt(0) | args[0].gt(MOST_ROWS), b.i64(0), || workspace(object, args[0]))
    });
    let params = [I32, PTR, I64, PTR, I64, PTR, PTR, I64, PTR, PTR];
    module.routine(&object.symbol("linear"), &params, I32, true, |b, args| {
        let [level, weights, weights_bytes, x, rows, y, memory, bytes, share, user] = *args else {
            unreachable!("it has ten parameters")
        };
        let missing = [x, y, memory].iter().fold(weights.is_null(), |any, pointer| any | pointer.is_null());
        unless(b, missing, b.i32(NULL_ARGUMENT), || {
            let misaligned = [x, y, memory].iter().fold(is_misaligned(weights), |any, pointer| any | is_misaligned(*pointer));
            unless(b, misaligned, b.i32(MISALIGNED), || {
                unless(b, rows.lt(0) | rows.gt(MOST_ROWS), b.i32(BAD_COUNT), || {
                    unless(b, bytes.lt(workspace(object, rows)), b.i32(TOO_SMALL), || {
                        let other = weights_bytes.ne(object.file.bytes as i64);
                        unless(b, other, b.i32(OTHER_WEIGHTS), || {
                            let differs = words_differ(b, object, weights);
                            unless(b, differs, b.i32(OTHER_WEIGHTS), || {
                                let head = Head(memory);
                                set_up(b, object, head, level, rows, (weights, x), (share, user));
                                b.call(RUN, &[head.0, rows, b.i64(0)]);
                                let from = head.base(Base::Tokens).at(rows * object.plan.logits_offset_per_row as i64);
                                copy_rows(b, from, y, rows, object.vocab as i64);
                                b.i32(OK)
                            })
                        })
                    })
                })
            })
        })
    });
}

/// Bytes of a workspace for so many rows.
fn workspace<'k>(object: &Object<'_>, rows: Val<'k>) -> Val<'k> {
    rows * object.plan.bytes_per_token as i64 + head_bytes(object.arguments)
}

fn set_up<'k>(
    b: &'k Builder<'k>,
    object: &Object<'_>,
    head: Head<'k>,
    level: Val<'k>,
    rows: Val<'k>,
    (weights, x): (Val<'k>, Val<'k>),
    (share, user): (Val<'k>, Val<'k>),
) {
    head.set(Word::Level, level.to(I64));
    head.at(Word::Share).store(share, 8);
    head.at(Word::User).store(user, 8);
    let none = [Quantity::Slots, Quantity::Capacity, Quantity::Cells, Quantity::InputBytes];
    none.into_iter().for_each(|quantity| head.set_quantity(quantity, b.i64(0)));
    head.set_quantity(Quantity::One, b.i64(1));
    let arena = head.0.at(head_bytes(object.arguments));
    let bases = [
        (Base::Tokens, arena),
        (Base::Logits, arena.at(rows * object.plan.bytes_per_token as i64)),
        (Base::Weights, weights),
        (Base::Cache, b.null()),
        (Base::Inputs, x),
    ];
    bases.into_iter().for_each(|(base, address)| head.set_base(base, address));
}

/// Copies rows of `width` floats, each at the next multiple of [`ALIGN`] bytes.
fn copy_rows<'k>(b: &'k Builder<'k>, from: Val<'k>, to: Val<'k>, rows: Val<'k>, width: i64) {
    let stride = act_stride(width as usize) as i64;
    debug_assert_eq!(stride % ALIGN as i64, 0);
    b.for_(0, rows, 1, |row| {
        let (from, to) = (from.at(row * stride), to.at(row * stride));
        b.for_(0, width, 1, |at| to.at(at * 4).store(from.at(at * 4).load(F32, 4), 4));
    });
}
