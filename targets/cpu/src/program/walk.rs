//! The step executor: generated code that walks over the program's tables.
//!
//! | function | does |
//! | --- | --- |
//! | `PREFIXkernel` | calls a kernel by its number, at a level |
//! | `program.task` | the same with what a context says: what the caller's threads are given |
//! | `program.run` | every step of the program, over tokens and rows that lie in the inputs |

use super::Object;
use super::layout::{Head, Quantity, Word};
use super::tables::{ARGUMENT, STEP, TERM, Tables, VARIANT};
use crate::abi::symbol;
use q35_bundle::Dim;
use q35_mlir::builder::{Builder, Carry, KernelModule, Val};
use q35_mlir::types::{I32, I64, PTR};

/// The function that threads run.
const TASK: &str = "program.task";
/// The function that runs a program.
pub(super) const RUN: &str = "program.run";

/// A number of a table.
fn word<'k>(table: Val<'k>, at: usize) -> Val<'k> {
    table.at(8 * at as i64).load(I64, 8)
}

/// Defines the functions.
pub(super) fn define(module: &KernelModule<'_>, object: &Object<'_>, tables: &Tables) {
    dispatch(module, object);
    let kernel = object.symbol("kernel");
    module.procedure(TASK, &[PTR, I64, I64], false, |b, args| {
        let [context, begin, end] = *args else { unreachable!("a task has three parameters") };
        let head = Head(context);
        let (level, number) = (head.get(Word::Level).to(I32), head.get(Word::Kernel).to(I32));
        let dims = head.at(Word::Quantities);
        b.call(&kernel, &[level, number, head.at(Word::Arguments), dims, begin, end]);
    });
    module.procedure(RUN, &[PTR, I64, I64], false, |b, args| {
        let [context, tokens, rows] = *args else { unreachable!("a run has three parameters") };
        let head = Head(context);
        head.set_quantity(Quantity::Tokens, tokens);
        head.set_quantity(Quantity::Rows, rows);
        let first = b.table(&tables.bytes(), 8);
        b.for_iter(0, tables.steps as i64, 1, first, |_, step| run_step(b, head, step, tables));
    });
}

/// Runs a step and gives the address of the next.
fn run_step<'k>(b: &'k Builder<'k>, head: Head<'k>, step: Val<'k>, tables: &Tables) -> Val<'k> {
    let (rows, arguments, variants) = (word(step, 0), word(step, 1), word(step, 2));
    let quantity = |number: Val<'k>| head.at(Word::Quantities).at(number * 8).load(I64, 8);
    let rows = quantity(rows);
    let first_argument = step.at(8 * STEP as i64);
    let first_variant = first_argument.at(arguments * (8 * ARGUMENT) as i64);
    let variant_bytes = 8 * (VARIANT + TERM * tables.terms) as i64;
    b.if_(rows.gt(0), || {
        b.for_(0, arguments, 1, |at| {
            let argument = first_argument.at(at * (8 * ARGUMENT) as i64);
            let base = head.at(Word::Bases).at(word(argument, 0) * 8).load(PTR, 8);
            let address = base.at(quantity(word(argument, 1)) * word(argument, 2));
            head.at(Word::Arguments).at(at * 8).store(address, 8);
        });
        // From the last, which is meant for any number of rows, to the first that is meant for these.
        let last = first_variant.at((variants - 1) * variant_bytes);
        let variant = b.for_iter(1, variants, 1, last, |at, found| {
            let other = first_variant.at((variants - 1 - at) * variant_bytes);
            rows.le(word(other, 0)).select(other, found)
        });
        head.set(Word::Kernel, word(variant, 1));
        let tiles = b.for_iter(0, word(variant, 2), 1, b.i64(0), |at, sum| {
            let term = variant.at(at * (8 * TERM) as i64).at(8 * VARIANT as i64);
            sum + word(term, 0) * quantity(word(term, 1)) * quantity(word(term, 2))
        });
        let share = head.at(Word::Share).load(PTR, 8);
        b.if_else(
            share.is_null(),
            || b.call(TASK, &[head.0, b.i64(0), tiles]),
            || b.call_at(share, &[head.at(Word::User).load(PTR, 8), b.function_address(TASK), head.0, tiles]),
        );
    });
    first_variant.at(variants * variant_bytes)
}

/// `kernel(level, number, args, dims, begin, end)`: a search among the numbers of kernels and levels.
fn dispatch(module: &KernelModule<'_>, object: &Object<'_>) {
    let kernels = object.kernels;
    let levels = object.levels;
    module.procedure(&object.symbol("kernel"), &[I32, I32, PTR, PTR, I64, I64], true, |b, args| {
        let [level, number, ref rest @ ..] = *args else { unreachable!("it has six parameters") };
        let level = level.max(0).min(levels.len() as i64 - 1);
        let number = number * levels.len() as i64 + level;
        let callees: Vec<String> =
            kernels.iter().flat_map(|kernel| levels.iter().map(|&level| object.symbol(&symbol(kernel, level)))).collect();
        let known = number.lt_u(callees.len() as i64);
        b.if_(known, || among(b, number, 0, &callees, rest));
    });
}

/// Calls the one of some functions whose number, counted from `first`, is `number`.
fn among<'k>(b: &'k Builder<'k>, number: Val<'k>, first: usize, callees: &[String], args: &[Val<'k>]) {
    if let [only] = callees {
        return b.call(only, args);
    }
    let (low, high) = callees.split_at(callees.len() / 2);
    let middle = first + low.len();
    b.if_else(number.lt(middle as i64), || among(b, number, first, low, args), || among(b, number, middle, high, args));
}

/// Runs `body` if no test before it fails: each is a condition that must not hold, and the status if it does.
pub(super) fn unless<'k, C: Carry<'k>>(b: &'k Builder<'k>, bad: Val<'k>, status: C, body: impl FnOnce() -> C) -> C {
    b.if_else(bad, || status, body)
}

/// The order of the quantities that kernels read is that of the dimensions.
const _: () = {
    assert!(Quantity::Tokens as usize == Dim::Tokens as usize && Quantity::Rows as usize == Dim::LogitRows as usize);
    assert!(Quantity::Slots as usize == Dim::Slots as usize && Quantity::Capacity as usize == Dim::Capacity as usize);
    assert!(Dim::ALL.len() == Quantity::One as usize);
};
