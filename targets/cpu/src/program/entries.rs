//! What the object exports beside its kernels: the functions that `model.h` declares and documents.

use super::layout::{self, Base, Head, Quantity, Sizes, Word, parts};
use super::status::*;
use super::walk::{RUN, unless};
use super::{Object, processor};
use q35_bundle::{ALIGN, CachePart, Input, row_stride};
use q35_mlir::builder::{Builder, KernelModule, Val};
use q35_mlir::types::{F32, I16, I32, I64, PTR};

/// Bytes of a saved state before the cache: the mark, and the length.
const STATE_HEAD: i64 = 16;

/// Defines every function.
pub(super) fn define(module: &KernelModule<'_>, object: &Object<'_>) {
    facts(module, object);
    open(module, object);
    sequences(module, object);
    states(module, object);
    step(module, object);
    step_batch(module, object);
}

/// The functions without a context.
fn facts(module: &KernelModule<'_>, object: &Object<'_>) {
    let numbers = [("vocab", object.vocab), ("longest_context", object.context), ("weights_size", object.file.bytes)];
    for (name, value) in numbers {
        module.routine(&object.symbol(name), &[], I64, true, |b, _| b.i64(value as i64));
    }
    levels(module, object);
    module.routine(&object.symbol("context_size"), &[PTR], I64, true, |b, args| {
        unless(b, args[0].is_null(), b.i64(0), || {
            let sizes = sizes(args[0]);
            unless(b, out_of_range(object, sizes), b.i64(0), || parts(b, object.plan, object.arguments, sizes).end)
        })
    });
}

/// The functions about feature levels and statuses.
pub(super) fn levels(module: &KernelModule<'_>, object: &Object<'_>) {
    module.routine(&object.symbol("best_level"), &[], I32, true, |b, _| processor::best(b, object.levels));
    module.routine(&object.symbol("level_name"), &[I32], PTR, true, |b, args| {
        let names = object.levels.iter().map(|level| level.name()).enumerate();
        chosen(b, args[0], names.map(|(at, name)| (at as i32, name)))
    });
    module.routine(&object.symbol("status_text"), &[I32], PTR, true, |b, args| {
        chosen(b, args[0], ALL.iter().map(|status| (status.code, status.text)))
    });
}

/// The text that belongs to a number; an unknown number's is empty.
fn chosen<'k>(b: &'k Builder<'k>, number: Val<'k>, texts: impl Iterator<Item = (i32, &'static str)>) -> Val<'k> {
    let string = |text: &str| b.table(&[text.as_bytes(), &[0]].concat(), 1);
    texts.fold(string(""), |found, (at, text)| number.eq(i64::from(at)).select(string(text), found))
}

/// The fields of a configuration.
fn sizes(config: Val<'_>) -> Sizes<'_> {
    let field = |at: i64| config.at(4 * at).load(I32, 4).to(I64);
    Sizes { slots: field(0), limit: field(1), max_tokens: field(2), max_rows: field(3) }
}

fn out_of_range<'k>(object: &Object<'_>, sizes: Sizes<'k>) -> Val<'k> {
    let Sizes { slots, limit, max_tokens, max_rows } = sizes;
    let outside = |value: Val<'k>, most: i64| value.lt(1) | value.gt(most);
    let sides = [
        outside(slots, layout::MOST_SLOTS),
        outside(limit, object.context as i64),
        outside(max_tokens, layout::MOST_TOKENS),
        outside(max_rows, layout::MOST_TOKENS),
        max_rows.gt(max_tokens),
        (slots * limit).gt(layout::most_cells(object.plan)),
    ];
    sides.into_iter().fold(slots.builder().i1(false), |any, side| any | side)
}

/// Whether the weights begin otherwise than those of this program.
pub(super) fn words_differ<'k>(b: &'k Builder<'k>, object: &Object<'_>, weights: Val<'k>) -> Val<'k> {
    let header = &object.file.header;
    let expected = b.table(header, ALIGN);
    let differs = b.for_iter(0, header.len() as i64 / 8, 1, b.i64(0), |at, differs| {
        let word = |of: Val<'k>| of.at(at * 8).load(I64, 8);
        differs | (word(weights) ^ word(expected))
    });
    differs.ne(0)
}

pub(super) fn is_misaligned(address: Val<'_>) -> Val<'_> {
    (address.address() & (ALIGN as i64 - 1)).ne(0)
}

fn open(module: &KernelModule<'_>, object: &Object<'_>) {
    module.routine(&object.symbol("open"), &[PTR, PTR, I64, PTR, I64, PTR], I32, true, |b, args| {
        let [config, memory, bytes, weights, weights_bytes, out] = *args else { unreachable!("it has six parameters") };
        let missing = config.is_null() | memory.is_null() | weights.is_null() | out.is_null();
        unless(b, missing, b.i32(NULL_ARGUMENT), || {
            out.store(b.null(), 8);
            let sizes = sizes(config);
            unless(b, out_of_range(object, sizes), b.i32(BAD_CONFIG), || {
                let parts = parts(b, object.plan, object.arguments, sizes);
                unless(b, is_misaligned(memory) | is_misaligned(weights), b.i32(MISALIGNED), || {
                    unless(b, bytes.lt_u(parts.end), b.i32(TOO_SMALL), || {
                        let other = weights_bytes.ne(object.file.bytes as i64);
                        unless(b, other, b.i32(OTHER_WEIGHTS), || {
                            let differs = words_differ(b, object, weights);
                            unless(b, differs, b.i32(OTHER_WEIGHTS), || {
                                let head = Head(memory);
                                set_up(b, object, head, sizes, &parts, weights);
                                out.store(memory, 8);
                                b.i32(OK)
                            })
                        })
                    })
                })
            })
        })
    });
    module.routine(&object.symbol("level"), &[PTR], I32, true, |b, args| {
        checked(b, object, args[0], &[], |head| head.get(Word::Level).to(I32))
    });
    module.routine(&object.symbol("share"), &[PTR, PTR, PTR], I32, true, |b, args| {
        let [context, share, user] = *args else { unreachable!("it has three parameters") };
        locked(b, object, context, &[], |head| {
            head.at(Word::Share).store(share, 8);
            head.at(Word::User).store(user, 8);
            b.i32(OK)
        })
    });
}

/// Fills the head of a new context. What is behind it is written before it is read.
fn set_up<'k>(
    b: &'k Builder<'k>,
    object: &Object<'_>,
    head: Head<'k>,
    sizes: Sizes<'k>,
    parts: &layout::Parts<'k>,
    weights: Val<'k>,
) {
    let words = [
        (Word::Mark, b.i64(object.mark)),
        (Word::Busy, b.i64(0)),
        (Word::Level, processor::best(b, object.levels).to(I64)),
        (Word::Limit, sizes.limit),
        (Word::MaxTokens, sizes.max_tokens),
        (Word::MaxRows, sizes.max_rows),
    ];
    words.into_iter().for_each(|(word, value)| head.set(word, value));
    [Word::Share, Word::User].into_iter().for_each(|word| head.at(word).store(b.null(), 8));
    let quantities = [
        (Quantity::Slots, sizes.slots),
        (Quantity::Capacity, parts.capacity),
        (Quantity::One, b.i64(1)),
        (Quantity::Cells, parts.cells),
        (Quantity::InputBytes, parts.input_bytes),
    ];
    quantities.into_iter().for_each(|(quantity, value)| head.set_quantity(quantity, value));
    let inside = |part: Val<'k>| head.0.at(part);
    let bases = [
        (Base::Tokens, inside(parts.tokens)),
        (Base::Logits, inside(parts.rows)),
        (Base::Weights, weights),
        (Base::Cache, inside(parts.cache)),
        (Base::Inputs, inside(parts.inputs)),
    ];
    bases.into_iter().for_each(|(base, address)| head.set_base(base, address));
    b.for_(0, sizes.slots, 1, |slot| head.length(object.arguments, slot).store(b.i64(0), 8));
}

/// `body(head)` if `needed` are not null and `context` is a context of this program; else why not.
fn checked<'k>(
    b: &'k Builder<'k>,
    object: &Object<'_>,
    context: Val<'k>,
    needed: &[Val<'k>],
    body: impl FnOnce(Head<'k>) -> Val<'k>,
) -> Val<'k> {
    let missing = needed.iter().fold(context.is_null(), |any, pointer| any | pointer.is_null());
    unless(b, missing, b.i32(NULL_ARGUMENT), || {
        unless(b, (context.address() & 7).ne(0), b.i32(NOT_A_CONTEXT), || {
            let head = Head(context);
            unless(b, head.get(Word::Mark).ne(object.mark), b.i32(NOT_A_CONTEXT), || body(head))
        })
    })
}

/// The same, while no other thread uses the context.
fn locked<'k>(
    b: &'k Builder<'k>,
    object: &Object<'_>,
    context: Val<'k>,
    needed: &[Val<'k>],
    body: impl FnOnce(Head<'k>) -> Val<'k>,
) -> Val<'k> {
    checked(b, object, context, needed, |head| {
        let busy = head.at(Word::Busy);
        unless(b, busy.exchange(b.i64(1)).ne(0), b.i32(BUSY), || {
            let status = body(head);
            busy.release(b.i64(0), 8);
            status
        })
    })
}

fn is_no_slot<'k>(head: Head<'k>, slot: Val<'k>) -> Val<'k> {
    slot.ge_u(head.quantity(Quantity::Slots))
}

/// Lengths of sequences.
fn sequences(module: &KernelModule<'_>, object: &Object<'_>) {
    let arguments = object.arguments;
    module.routine(&object.symbol("length"), &[PTR, I32], I32, true, |b, args| {
        let slot = args[1].to(I64);
        locked(b, object, args[0], &[], |head| {
            unless(b, is_no_slot(head, slot), b.i32(BAD_SLOT), || head.length(arguments, slot).load(I64, 8).to(I32))
        })
    });
    module.routine(&object.symbol("truncate"), &[PTR, I32, I32], I32, true, |b, args| {
        let (slot, length) = (args[1].to(I64), args[2].to(I64));
        locked(b, object, args[0], &[], |head| {
            unless(b, is_no_slot(head, slot), b.i32(BAD_SLOT), || {
                unless(b, length.lt(0), b.i32(BAD_COUNT), || {
                    let place = head.length(arguments, slot);
                    place.store(place.load(I64, 8).min(length), 8);
                    b.i32(OK)
                })
            })
        })
    });
    module.routine(&object.symbol("reset"), &[PTR], I32, true, |b, args| {
        locked(b, object, args[0], &[], |head| {
            let slots = head.quantity(Quantity::Slots);
            b.for_(0, slots, 1, |slot| head.length(arguments, slot).store(b.i64(0), 8));
            b.i32(OK)
        })
    });
}

/// Saving and restoring the cache of a slot.
fn states(module: &KernelModule<'_>, object: &Object<'_>) {
    let cell = object.plan.cache_entry_bytes() as i64;
    let arguments = object.arguments;
    module.routine(&object.symbol("state_size"), &[I32], I64, true, |b, args| {
        let tokens = args[0].to(I64);
        let outside = tokens.lt(0) | tokens.gt(object.context as i64);
        unless(b, outside, b.i64(0), || tokens * cell + STATE_HEAD)
    });
    // copy(context, slot, length, state, whether into the state)
    module.procedure("program.copy", &[PTR, I64, I64, PTR, I32], false, |b, args| {
        let [context, slot, length, state, save] = *args else { unreachable!("it has five parameters") };
        let head = Head(context);
        let (capacity, cells) = (head.quantity(Quantity::Capacity), head.quantity(Quantity::Cells));
        let table: Vec<u8> = layout::halves(object.plan)
            .flat_map(|(layer, part)| {
                let of = &object.plan.cache[layer];
                [layout::cache_offset(object.plan, layer, part), of.kv_heads, of.columns(part) * of.dtype.bytes()]
            })
            .flat_map(u64::to_le_bytes)
            .collect();
        let halves = table.len() as i64 / 24;
        let table = b.table(&table, 8);
        b.for_iter(0, halves, 1, state.at(STATE_HEAD), |half, outside| {
            let fact = |at: i64| table.at(half * 24).at(8 * at).load(I64, 8);
            let (offset, heads, row) = (fact(0), fact(1), fact(2));
            let bytes = length * row;
            b.for_iter(0, heads, 1, outside, |at, outside| {
                let entry = (slot * heads + at) * capacity * row;
                let inside = head.base(Base::Cache).at(cells * offset).at(entry);
                b.if_else(save.ne(0), || copy(b, inside, outside, bytes), || copy(b, outside, inside, bytes));
                outside.at(bytes)
            })
        });
    });
    module.routine(&object.symbol("save"), &[PTR, I32, PTR, I64], I32, true, |b, args| {
        let (slot, state, bytes) = (args[1].to(I64), args[2], args[3]);
        locked(b, object, args[0], &[state], |head| {
            unless(b, is_no_slot(head, slot), b.i32(BAD_SLOT), || {
                let length = head.length(arguments, slot).load(I64, 8);
                unless(b, bytes.lt_u(length * cell + STATE_HEAD), b.i32(TOO_SMALL), || {
                    state.store(b.i64(object.mark), 1);
                    state.at(8).store(length, 1);
                    b.call("program.copy", &[head.0, slot, length, state, b.i32(1)]);
                    b.i32(OK)
                })
            })
        })
    });
    module.routine(&object.symbol("restore"), &[PTR, I32, PTR, I64], I32, true, |b, args| {
        let (slot, state, bytes) = (args[1].to(I64), args[2], args[3]);
        locked(b, object, args[0], &[state], |head| {
            unless(b, is_no_slot(head, slot), b.i32(BAD_SLOT), || {
                unless(b, bytes.lt_u(STATE_HEAD), b.i32(BAD_STATE), || {
                    let (mark, length) = (state.load(I64, 1), state.at(8).load(I64, 1));
                    let outside = length.lt(0) | length.gt(object.context as i64);
                    unless(b, mark.ne(object.mark) | outside, b.i32(BAD_STATE), || {
                        unless(b, bytes.lt_u(length * cell + STATE_HEAD), b.i32(BAD_STATE), || {
                            unless(b, length.gt(head.get(Word::Limit)), b.i32(FULL), || {
                                b.call("program.copy", &[head.0, slot, length, state, b.i32(0)]);
                                head.length(arguments, slot).store(length, 8);
                                b.i32(OK)
                            })
                        })
                    })
                })
            })
        })
    });
}

/// Copies so many bytes of elements of the cache, of which the shortest have two.
fn copy<'k>(b: &'k Builder<'k>, from: Val<'k>, to: Val<'k>, bytes: Val<'k>) {
    b.for_(0, bytes, 2, |at| to.at(at).store(from.at(at).load(I16, 1), 1));
}

/// An array of the inputs.
fn input<'k>(head: Head<'k>, input: Input) -> Val<'k> {
    head.base(Base::Inputs).at(head.quantity(Quantity::InputBytes) * input as i64)
}

/// Entry `at` of an array of 32-bit numbers.
fn entry<'k>(array: Val<'k>, at: Val<'k>) -> Val<'k> {
    array.at(at * 4)
}

/// Whether one of some tokens is outside the vocabulary.
fn any_unknown<'k>(b: &'k Builder<'k>, object: &Object<'_>, tokens: Val<'k>, count: Val<'k>) -> Val<'k> {
    b.for_iter(0, count, 1, b.i1(false), |at, bad| bad | entry(tokens, at).load(I32, 4).to(I64).ge_u(object.vocab as i64))
}

/// Copies the logits of the last run, so many rows, to where the caller wants them.
fn logits<'k>(b: &'k Builder<'k>, object: &Object<'_>, head: Head<'k>, rows: Val<'k>, out: Val<'k>) {
    let vocab = object.vocab as i64;
    let stride = row_stride(object.vocab).unwrap_or_else(|| unreachable!("the plan has such rows")) as i64;
    let first = head.base(Base::Logits).at(rows * object.plan.logits_offset_per_row as i64);
    b.for_(0, rows, 1, |row| {
        let (from, to) = (first.at(row * stride), out.at(row * (4 * vocab)));
        b.for_(0, vocab, 1, |at| entry(to, at).store(entry(from, at).load(F32, 4), 4));
    });
}

/// `step(context, slot, tokens, count, logits)`: one sequence goes on, in as many runs as it takes.
fn step(module: &KernelModule<'_>, object: &Object<'_>) {
    module.routine(&object.symbol("step"), &[PTR, I32, PTR, I32, PTR], I32, true, |b, args| {
        let [context, slot, tokens, count, out] = *args else { unreachable!("it has five parameters") };
        let (slot_number, count) = (slot.to(I64), count.to(I64));
        locked(b, object, context, &[tokens], |head| {
            unless(b, is_no_slot(head, slot_number), b.i32(BAD_SLOT), || {
                let place = head.length(object.arguments, slot_number);
                let length = place.load(I64, 8);
                unless(b, count.lt(1), b.i32(BAD_COUNT), || {
                    unless(b, any_unknown(b, object, tokens, count.min(object.context as i64)), b.i32(BAD_TOKEN), || {
                        unless(b, (length + count).gt(head.get(Word::Limit)), b.i32(FULL), || {
                            let most = head.get(Word::MaxTokens);
                            b.for_(0, count, most, |start| {
                                let some = (count - start).min(most);
                                b.for_(0, some, 1, |at| {
                                    let position = (length + start + at).to(I32);
                                    let token = entry(tokens, start + at).load(I32, 4);
                                    let numbers = [
                                        (Input::Tokens, token),
                                        (Input::Positions, position),
                                        (Input::Slots, slot),
                                        (Input::Index, position),
                                    ];
                                    numbers.into_iter().for_each(|(of, n)| entry(input(head, of), at).store(n, 4));
                                });
                                input(head, Input::LogitRows).store((some - 1).to(I32), 4);
                                let last = (start + some).eq(count) & !out.is_null();
                                b.call(RUN, &[head.0, some, last.to_u(I64)]);
                            });
                            b.if_(!out.is_null(), || logits(b, object, head, b.i64(1), out));
                            place.store(length + count, 8);
                            b.i32(OK)
                        })
                    })
                })
            })
        })
    });
}

/// `step_batch(context, tokens, slots, count, rows, row_count, logits)`: many sequences go on at once, in one run.
fn step_batch(module: &KernelModule<'_>, object: &Object<'_>) {
    let arguments = object.arguments;
    module.routine(&object.symbol("step_batch"), &[PTR, PTR, PTR, I32, PTR, I32, PTR], I32, true, |b, args| {
        let [context, tokens, slots, count, rows, row_count, out] = *args else { unreachable!("it has seven parameters") };
        let (count, row_count) = (count.to(I64), row_count.to(I64));
        locked(b, object, context, &[tokens, slots], |head| {
            let too_many = count.lt(1) | count.gt(head.get(Word::MaxTokens));
            let too_many_rows = row_count.lt(0) | row_count.gt(head.get(Word::MaxRows));
            unless(b, too_many | too_many_rows, b.i32(BAD_COUNT), || {
                let missing = row_count.gt(0) & (rows.is_null() | out.is_null());
                unless(b, missing, b.i32(NULL_ARGUMENT), || {
                    unless(b, any_unknown(b, object, tokens, count), b.i32(BAD_TOKEN), || {
                        let bad_row = b.for_iter(0, row_count, 1, b.i1(false), |at, bad| {
                            let row = entry(rows, at).load(I32, 4);
                            entry(input(head, Input::LogitRows), at).store(row, 4);
                            bad | row.to(I64).ge_u(count)
                        });
                        unless(b, bad_row, b.i32(BAD_ROW), || {
                            let status = place_batch(b, object, head, tokens, slots, count);
                            unless(b, status.ne(i64::from(OK)), status, || {
                                b.call(RUN, &[head.0, count, row_count]);
                                logits(b, object, head, row_count, out);
                                let all = head.quantity(Quantity::Slots);
                                b.for_(0, all, 1, |slot| {
                                    let next = head.next_length(arguments, slot).load(I64, 8);
                                    head.length(arguments, slot).store(next, 8);
                                });
                                b.i32(OK)
                            })
                        })
                    })
                })
            })
        })
    });
}

/// Lays a batch out in the inputs, and the lengths that its slots will have; a status if that cannot be.
fn place_batch<'k>(
    b: &'k Builder<'k>,
    object: &Object<'_>,
    head: Head<'k>,
    tokens: Val<'k>,
    slots: Val<'k>,
    count: Val<'k>,
) -> Val<'k> {
    let arguments = object.arguments;
    b.for_(0, head.quantity(Quantity::Slots), 1, |slot| {
        let length = head.length(arguments, slot).load(I64, 8);
        head.next_length(arguments, slot).store(length, 8);
    });
    b.for_iter(0, count, 1, b.i32(OK), |at, status| {
        let slot = entry(slots, at).load(I32, 4);
        unless(b, status.ne(i64::from(OK)), status, || {
            unless(b, is_no_slot(head, slot.to(I64)), b.i32(BAD_SLOT), || {
                let next = head.next_length(arguments, slot.to(I64));
                let index = next.load(I64, 8);
                unless(b, index.ge(head.get(Word::Limit)), b.i32(FULL), || {
                    let position = index.to(I32);
                    let token = entry(tokens, at).load(I32, 4);
                    let numbers =
                        [(Input::Tokens, token), (Input::Positions, position), (Input::Slots, slot), (Input::Index, position)];
                    numbers.into_iter().for_each(|(of, n)| entry(input(head, of), at).store(n, 4));
                    next.store(index + 1, 8);
                    b.i32(OK)
                })
            })
        })
    })
}

/// A half of a layer holds its heads' entries one after the other: what `states` and the kernels that write the cache agree on.
const _: () = assert!(CachePart::Key as u8 == 0 && CachePart::Value as u8 == 1);
