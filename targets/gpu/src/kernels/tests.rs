use super::attention as kernels_of_attention;
use super::blocked::Blocked;
use super::*;
use crate::linear::geometry::{BLOCK, SPAN, packed_place, packed_stride};
use crate::testing::{Arg, GPUS, Gpu, Random, close, floats, ir, is_race, rows, run, try_run, without_barriers};
use q35_bundle::CacheDtype;
use q35_dialects::q35::{Activation, RopeStyle};
use q35_format::rotate;
use q35_launch::Split;
use q35_launch::layout::act_stride;
use q35_launch::spec::{
    Append, Attention, Chain, Columns, Hadamard, LayerNorm, NormWeight, Operation, Pointwise, RmsNorm, Rope, Rotary, Scores,
    Select,
};

/// Makes a test of each of these, on every GPU.
macro_rules! on_every_gpu {
    ($($name:ident,)*) => {
        mod on_every_gpu { $(
            #[test]
            fn $name() {
                crate::testing::GPUS.iter().for_each(super::$name);
            }
        )* }
    };
}
on_every_gpu! {
    packed_columns_lie_where_lanes_read_them,
    rotations_are_those_of_the_format_to_the_bit,
    norms_of_rows_and_of_heads,
    norms_about_the_mean,
    positions_turn_pairs,
    entries_are_appended_and_attended_to,
    blocks_of_queries_meet_blocks_of_the_cache,
    elements_one_by_one,
    rows_and_columns_move,
    tokens_are_those_of_the_largest_logits,
    parts_of_a_chain_see_what_parts_before_them_wrote,
}

fn packed_columns_lie_where_lanes_read_them(gpu: &Gpu) {
    let (width, tokens) = (700, 3);
    let x = Random(1).numbers(tokens * width, 3.0);
    let after =
        run(gpu, &Pack { width: 700 }, &[Arg::rows(&x, width), Arg::space(tokens * packed_stride(width))], [3, 0, 0, 0]);
    for (token, row) in after[1].chunks(packed_stride(width)).enumerate() {
        for column in 0..packed_stride(width) / 2 {
            let (block, within) = (column / BLOCK, column % BLOCK);
            let (part, step) = (within / SPAN, within % SPAN / 4);
            let at = packed_place(block, part, step) + column % 4 * 2;
            let expected = if column < width { half::f16::from_f32(x[token * width + column]) } else { half::f16::ZERO };
            assert_eq!(half::f16::from_le_bytes([row[at], row[at + 1]]), expected, "{token} {column}");
        }
    }
}

fn rotations_are_those_of_the_format_to_the_bit(gpu: &Gpu) {
    for (width, block, inverse) in [(6usize, 2usize, false), (24, 8, true), (768, 256, false), (2048, 2048, true)] {
        let seed = 0x5EED + width as u64;
        let x = Random(2).numbers(2 * width, 2.0);
        let mut expected = x.clone();
        for row in expected.chunks_mut(width) {
            if inverse { rotate::inverse(row, block, seed) } else { rotate::forward(row, block, seed) }
        }
        let kernel = Hadamard { width: width as u64, block: block as u64, seed, inverse };
        let after = run(gpu, &kernel, &[Arg::rows(&x, width), Arg::blank(2, width)], [2, 0, 0, 0]);
        assert_eq!(rows(&after[1], width), expected, "{width} by {block}");
    }
}

fn norms_of_rows_and_of_heads(gpu: &Gpu) {
    for (width, group, weight) in [(300, 300, NormWeight::PerColumn), (288, 24, NormWeight::Shared), (5, 5, NormWeight::None)] {
        let (x, w) = (Random(3).numbers(3 * width, 2.0), Random(4).numbers(width, 2.0));
        let w = if weight == NormWeight::Shared { &w[..group] } else { &w[..] };
        let mut exact = Vec::new();
        for of_group in x.chunks(group) {
            let mean = of_group.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / group as f64;
            for (at, v) in of_group.iter().enumerate() {
                let factor = if weight == NormWeight::None { 1.0 } else { w[(exact.len() - at % group + at) % w.len()] };
                exact.push(f64::from(*v) / (mean + f64::from(1e-5f32)).sqrt() * f64::from(factor));
            }
        }
        let kernel = RmsNorm { width: width as u64, group: group as u64, eps: 1e-5, weight };
        let mut args = vec![Arg::rows(&x, width), Arg::floats(w), Arg::blank(3, width)];
        if weight == NormWeight::None {
            args.remove(1);
        }
        let after = run(gpu, &kernel, &args, [3, 0, 0, 0]);
        close(&rows(after.last().unwrap(), width), &exact, 5e-7, &kernel.name());
    }
}

fn norms_about_the_mean(gpu: &Gpu) {
    use NormWeight::{None as Plain, PerColumn, Shared};
    let cases =
        [(300, 300, PerColumn, PerColumn), (288, 24, Shared, Plain), (288, 24, PerColumn, Shared), (5, 5, Plain, Plain)];
    for (width, group, weight, bias) in cases {
        // Far from 0, where a difference of sums of squares would be lost.
        let x: Vec<f32> = Random(16).numbers(3 * width, 2.0).iter().map(|v| v + 1000.0).collect();
        let length = |which| if which == Shared { group } else { width };
        let (w, c) = (Random(17).numbers(length(weight), 2.0), Random(18).numbers(length(bias), 2.0));
        let mut exact = Vec::new();
        for of_group in x.chunks(group) {
            let mean = of_group.iter().map(|v| f64::from(*v)).sum::<f64>() / group as f64;
            let variance = of_group.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / group as f64;
            for v in of_group {
                let vector = |of: &[f32]| f64::from(of[exact.len() % of.len()]);
                let factor = if weight == Plain { 1.0 } else { vector(&w) };
                let more = if bias == Plain { 0.0 } else { vector(&c) };
                exact.push((f64::from(*v) - mean) / (variance + f64::from(1e-5f32)).sqrt() * factor + more);
            }
        }
        let kernel = LayerNorm { width: width as u64, group: group as u64, eps: 1e-5, weight, bias };
        let mut args = vec![Arg::rows(&x, width)];
        args.extend([(weight, &w), (bias, &c)].into_iter().filter(|(which, _)| *which != Plain).map(|(_, v)| Arg::floats(v)));
        args.push(Arg::blank(3, width));
        let after = run(gpu, &kernel, &args, [3, 0, 0, 0]);
        // A mean near 1000 is off by as much as 2^-24 of it times the roundings of a tree.
        close(&rows(after.last().unwrap(), width), &exact, 4e-4, &kernel.name());
    }
}

fn positions_turn_pairs(gpu: &Gpu) {
    let (half, heads, dim, tokens) = (9usize, 3usize, 24usize, 2usize);
    let inv_freq: Vec<f32> = (0..half).map(|i| 10_000f32.powf(-(i as f32) / half as f32)).collect();
    let positions = [1_000_003, 7];
    let rotary = Rotary { half: half as u64, scale: 1.5 };
    let after = run(gpu, &rotary, &[Arg::ints(&positions), Arg::floats(&inv_freq), Arg::blank(tokens, 2 * half)], [2, 0, 0, 0]);
    let angles = rows(&after[2], 2 * half);
    let angle = |token: usize, i: usize| f64::from(positions[token] as f32 * inv_freq[i]);
    let exact: Vec<f64> = (0..tokens)
        .flat_map(|t| (0..2 * half).map(move |i| (t, i)))
        .map(|(t, i)| 1.5 * if i < half { angle(t, i).cos() } else { angle(t, i - half).sin() })
        .collect();
    close(&angles, &exact, 4e-7, "rotary");

    let width = heads * dim;
    let x = Random(5).numbers(tokens * width, 2.0);
    for style in [RopeStyle::Halves, RopeStyle::Interleaved] {
        let mut exact: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
        for (t, row) in exact.chunks_mut(width).enumerate() {
            for head in row.chunks_mut(dim) {
                for i in 0..half {
                    let (a, b) = if style == RopeStyle::Halves { (i, i + half) } else { (2 * i, 2 * i + 1) };
                    let (cos, sin) = (f64::from(angles[t * 2 * half + i]), f64::from(angles[t * 2 * half + half + i]));
                    (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[b] * cos + head[a] * sin);
                }
            }
        }
        let kernel = Rope { width: width as u64, head_dim: dim as u64, half: half as u64, style };
        let args = [Arg::rows(&x, width), Arg::rows(&angles, 2 * half), Arg::blank(tokens, width)];
        close(&rows(&run(gpu, &kernel, &args, [2, 0, 0, 0])[2], width), &exact, 1e-6, &kernel.name());
    }
}

/// Scores that are plain products.
const SCORES: Scores = Scores { scale: 0.3, window: None, softcap: None };

fn attention(heads: u64, kv_heads: u64, key_dim: u64, value_dim: u64) -> Attention {
    Attention { heads, kv_heads, key_dim, value_dim, dtype: CacheDtype::F32, scores: SCORES, sinks: false }
}

/// Tokens of two slots, and the entries they are.
struct Tokens<'a> {
    slots: &'a [i32],
    index: &'a [i32],
}

/// What attention over a cache of random numbers gives, in f64, and the arguments of its kernels. Operands are rounded as `operand` says.
fn attended(spec: &Attention, tokens: &Tokens<'_>, capacity: usize, operand: fn(f32) -> f64) -> (Vec<Arg>, Vec<f64>) {
    let [heads, kv_heads, key_dim, value_dim] = [spec.heads, spec.kv_heads, spec.key_dim, spec.value_dim].map(|n| n as usize);
    let count = tokens.slots.len();
    let query = Random(6).numbers(count * heads * key_dim, 3.0);
    let keys = Random(7).numbers(2 * kv_heads * capacity * key_dim, 2.0);
    let values = Random(8).numbers(2 * kv_heads * capacity * value_dim, 4.0);
    let sinks = Random(9).numbers(heads, 2.0);
    let mut exact = Vec::new();
    for (token, head) in (0..count).flat_map(|t| (0..heads).map(move |h| (t, h))) {
        let place = (tokens.slots[token] as usize * kv_heads + head / (heads / kv_heads)) * capacity;
        let last = tokens.index[token] as usize;
        let first = spec.scores.window.map_or(0, |w| (last + 1).saturating_sub(w as usize));
        let query = &query[(token * heads + head) * key_dim..][..key_dim];
        let weight = |j: usize| {
            let key = &keys[(place + j) * key_dim..][..key_dim];
            let dot: f64 = key.iter().zip(query).map(|(k, q)| operand(*k) * operand(*q)).sum();
            let scaled = dot * f64::from(spec.scores.scale);
            spec.scores.softcap.map_or(scaled, |cap| f64::from(cap) * (scaled / f64::from(cap)).tanh()).exp()
        };
        let weights: Vec<f64> = (first..=last).map(weight).collect();
        let total = weights.iter().sum::<f64>() + if spec.sinks { f64::from(sinks[head]).exp() } else { 0.0 };
        for column in 0..value_dim {
            let value = |j: usize| operand(values[(place + first + j) * value_dim + column]);
            exact.push(weights.iter().enumerate().map(|(j, w)| w / total * value(j)).sum());
        }
    }
    // Entries that no token sees have not been written.
    let seen = |rows: &[f32], dim: usize| {
        let mut bytes = vec![None; 4 * rows.len()];
        for (slot, index) in tokens.slots.iter().zip(tokens.index) {
            for head in 0..kv_heads {
                let start = (*slot as usize * kv_heads + head) * capacity * dim;
                for at in start..start + (*index as usize + 1) * dim {
                    (0..4).for_each(|byte| bytes[4 * at + byte] = Some(rows[at].to_le_bytes()[byte]));
                }
            }
        }
        Arg::Bytes(bytes)
    };
    let mut args = vec![Arg::rows(&query, heads * key_dim), Arg::ints(tokens.slots), Arg::ints(tokens.index)];
    args.extend([seen(&keys, key_dim), seen(&values, value_dim)]);
    args.extend(spec.sinks.then(|| Arg::floats(&sinks)));
    args.extend([Arg::blank(count, heads * value_dim), Arg::space(count * kernels_of_attention(spec).bytes as usize)]);
    (args, exact)
}

fn blocks_of_queries_meet_blocks_of_the_cache(gpu: &Gpu) {
    let half = |v: f32| half::f16::from_f32(v).to_f64();
    let capacity = 170;
    // A prompt from its beginning, one that continues at an entry within a block, and tokens of slots by turns.
    let prompt: (Vec<i32>, Vec<i32>) = (vec![1; 37], (0..37).collect());
    let later: (Vec<i32>, Vec<i32>) = (vec![0; 35], (90..125).collect());
    let mixed: (Vec<i32>, Vec<i32>) = ((0..9).map(|t| i32::from(t % 3 == 1)).collect(), (0..9).map(|t| 18 * t + 7).collect());
    let windowed = |window| Scores { window: Some(window), ..SCORES };
    let capped = Scores { softcap: Some(2.0), ..SCORES };
    let mut cases = vec![
        (Attention { scores: windowed(5), ..attention(2, 1, 32, 70) }, &prompt),
        (Attention { scores: windowed(66), ..attention(6, 2, 20, 24) }, &later),
        (Attention { scores: capped, sinks: true, ..attention(4, 1, 7, 1) }, &mixed),
    ];
    if std::env::var_os("Q35_FULL").is_some() {
        cases.extend([
            (attention(8, 8, 64, 64), &prompt),
            (attention(40, 1, 16, 16), &mixed),
            (attention(4, 2, 256, 256), &later),
        ]);
    }
    for (spec, (slots, index)) in cases {
        let kernel = Blocked::of(&spec).unwrap();
        let (text, width) = (ir(gpu, &[&kernel]), (spec.heads * spec.value_dim) as usize);
        let run = |count: usize| {
            let (args, exact) = attended(&spec, &Tokens { slots: &slots[..count], index: &index[..count] }, capacity, half);
            let after = try_run(gpu, &text, &kernel, &args, [count as i64, 0, 2, capacity as i64], q35_dialects::Rows::Tokens);
            let after = after.unwrap_or_else(|fault| panic!("{}: {fault}", gpu.name));
            (rows(&after[spec.args() - 1], width), exact)
        };
        let (found, exact) = run(slots.len());
        // Weights of entries are halves too: 2^-11 of values up to 4.
        close(&found, &exact, 2e-3, &kernel.name());
        // Without most of the tokens.
        assert_eq!(run(3).0, found[..3 * width], "{}", kernel.name());
    }
}

#[test]
fn attention_in_blocks_needs_each_of_its_barriers() {
    let spec = attention(4, 1, 16, 16);
    let (slots, index) = ([0, 1, 1], [69, 0, 1]);
    let (args, _) = attended(&spec, &Tokens { slots: &slots, index: &index }, 70, f64::from);
    let kernel = Blocked::of(&spec).unwrap();
    for gpu in &GPUS {
        let broken = without_barriers(&ir(gpu, &[&kernel]));
        let run = |ir: &String| try_run(gpu, ir, &kernel, &args, [3, 0, 2, 70], q35_dialects::Rows::Tokens);
        let seen = broken.iter().map(|ir| is_race(&run(ir)));
        let seen: Vec<bool> = seen.collect();
        assert!(broken.len() >= 5 && seen.iter().all(|seen| *seen), "{}: {seen:?}", gpu.name);
    }
}

fn entries_are_appended_and_attended_to(gpu: &Gpu) {
    let (slots, index, capacity) = ([1, 0, 1, 0], [0, 36, 16, 3], 40usize);
    let dtype = CacheDtype::F32;
    let cases = [
        attention(4, 2, 24, 24),
        attention(2, 1, 64, 40),
        Attention { scores: Scores { window: Some(5), ..SCORES }, sinks: true, ..attention(3, 3, 7, 1) },
        Attention { scores: Scores { softcap: Some(2.0), ..SCORES }, ..attention(2, 2, 128, 128) },
    ];
    for spec in cases {
        let (args, exact) = attended(&spec, &Tokens { slots: &slots, index: &index }, capacity, f64::from);
        let width = (spec.heads * spec.value_dim) as usize;
        let Split { choices, join, .. } = kernels_of_attention(&spec);
        let [shared, whole] = [0, 1].map(|at| run(gpu, &*choices[at].kernel, &args, [4, 0, 2, capacity as i64]));
        close(&rows(&whole[spec.args() - 1], width), &exact, 2e-5, &choices[1].kernel.name());
        let mut of_join = vec![Arg::Constant(shared[spec.args()].clone())];
        of_join.extend(spec.sinks.then(|| args[5].clone()));
        of_join.push(Arg::blank(4, width));
        let after = run(gpu, &*join, &of_join, [4, 0, 2, capacity as i64]);
        close(&rows(after.last().unwrap(), width), &exact, 2e-5, &join.name());
    }

    let append = Append { kv_heads: 2, key_dim: 5, value_dim: 3, dtype };
    let (key, value) = (Random(10).numbers(4 * 10, 1.0), Random(11).numbers(4 * 6, 1.0));
    let space = |dim: usize| Arg::space(2 * 2 * capacity * dim * 4);
    let args = [Arg::rows(&key, 10), Arg::rows(&value, 6), Arg::ints(&slots), Arg::ints(&index), space(5), space(3)];
    let after = run(gpu, &append, &args, [4, 0, 2, capacity as i64]);
    for (rows, cache, dim) in [(&key, &after[4], 5), (&value, &after[5], 3)] {
        let cache = floats(cache);
        for (at, v) in rows.iter().enumerate() {
            let (token, head) = (at / (2 * dim), at / dim % 2);
            let place = (slots[token] as usize * 2 + head) * capacity + index[token] as usize;
            assert_eq!(cache[place * dim + at % dim], *v);
        }
    }
}

#[test]
fn a_cache_in_half_precision_is_refused() {
    let spec = Append { kv_heads: 2, key_dim: 5, value_dim: 3, dtype: CacheDtype::F16 };
    let reason = of(Any::Append(spec)).err().unwrap();
    assert_eq!(reason, "a KV cache in f16 has no kernel on GPUs, which keep it in f32");
}

fn elements_one_by_one(gpu: &Gpu) {
    let (width, tokens) = (300, 2);
    let (a, b) = (Random(12).numbers(tokens * width, 4.0), Random(13).numbers(tokens * width, 4.0));
    type Case = (Operation, bool, fn(f64, f64) -> f64);
    let glu = Operation::Glu { activation: Activation::Silu, limit: None, alpha: 1.0, offset: 0.0 };
    let cases: [Case; 4] = [
        (Operation::Add, false, |a, b| a + b),
        (Operation::Mul, true, |a, b| a * b),
        (Operation::Softcap(2.0), false, |a, _| 2.0 * (a / 2.0).tanh()),
        (glu, false, |a, b| a / (1.0 + (-a).exp()) * b),
    ];
    for (operation, column, exact) in cases {
        let kernel = Pointwise { operation, width: width as u64, column };
        let second = |at: usize| if column { b[at / width] } else { b[at] };
        let exact: Vec<f64> = (0..a.len()).map(|at| exact(a[at].into(), second(at).into())).collect();
        let mut args = vec![Arg::rows(&a, width)];
        if operation.is_binary() {
            args.push(if column { Arg::rows(&b[..tokens], 1) } else { Arg::rows(&b, width) });
        }
        args.push(Arg::blank(tokens, width));
        let after = run(gpu, &kernel, &args, [tokens as i64, 0, 0, 0]);
        close(&rows(after.last().unwrap(), width), &exact, 1e-6, &kernel.name());
    }
}

fn rows_and_columns_move(gpu: &Gpu) {
    let x = Random(14).numbers(5 * 70, 1.0);
    let select = Select { width: 70 };
    let after = run(gpu, &select, &[Arg::rows(&x, 70), Arg::ints(&[4, 0, 4]), Arg::blank(3, 70)], [3, 0, 0, 0]);
    assert_eq!(rows(&after[2], 70), [&x[4 * 70..], &x[..70], &x[4 * 70..]].concat());
    let columns = Columns { width: 70, start: 5, len: 19 };
    let after = run(gpu, &columns, &[Arg::rows(&x, 70), Arg::blank(5, 19)], [5, 0, 0, 0]);
    assert_eq!(rows(&after[1], 19), x.chunks(70).flat_map(|row| &row[5..24]).copied().collect::<Vec<_>>());
}

/// What the runtime takes on the host, said once more: the first of the largest, and what is no number is the smallest.
fn first_of_the_largest(row: &[f32]) -> i32 {
    let number = |v: f32| if v.is_nan() { f32::NEG_INFINITY } else { v };
    let largest = row.iter().map(|v| number(*v)).fold(f32::NEG_INFINITY, f32::max);
    row.iter().position(|v| number(*v) == largest).unwrap() as i32
}

fn tokens_are_those_of_the_largest_logits(gpu: &Gpu) {
    for width in [1usize, 3, 70, 4096, 4103, 9001] {
        let mut x = Random(20 + width as u64).numbers(5 * width, 3.0);
        let last = width - 1;
        // Equal ones, far from each other and in one thread; the largest at the very end; zeros of both signs; no numbers.
        x[last] = 5.0;
        x[width + width / 2] = 4.0;
        x[width + (width / 2 + 1).min(last)] = 4.0;
        x[width + last] = 4.0;
        x[2 * width..3 * width].fill(-0.0);
        x[2 * width + last] = 0.0;
        x[3 * width..4 * width].fill(f32::NEG_INFINITY);
        x[3 * width] = f32::NAN;
        x[4 * width..5 * width - 1].fill(f32::NAN);
        x[5 * width - 1] = -1e30;
        let after = run(gpu, &Choose { width: width as u64 }, &[Arg::rows(&x, width), Arg::space(5 * 64)], [5, 0, 0, 0]);
        let found: Vec<i32> = after[1].chunks(64).map(|row| i32::from_le_bytes([row[0], row[1], row[2], row[3]])).collect();
        assert_eq!(found, x.chunks(width).map(first_of_the_largest).collect::<Vec<_>>(), "{width} columns");
    }
}

fn parts_of_a_chain_see_what_parts_before_them_wrote(gpu: &Gpu) {
    use std::rc::Rc;
    let (width, tokens) = (600, 2);
    let norm = RmsNorm { width: 600, group: 600, eps: 1e-6, weight: NormWeight::None };
    let rotation = Hadamard { width: 600, block: 8, seed: 1, inverse: false };
    let chain: Chain<dyn Kernel> = Chain { parts: vec![Rc::new(norm.clone()), Rc::new(rotation.clone())] };
    let x = Random(15).numbers(tokens * width, 2.0);
    let after = run(gpu, &norm, &[Arg::rows(&x, width), Arg::blank(tokens, width)], [2, 0, 0, 0]);
    let normal = rows(&after[1], width);
    let after = run(gpu, &rotation, &[Arg::rows(&normal, width), Arg::blank(tokens, width)], [2, 0, 0, 0]);
    let expected = rows(&after[1], width);

    // The value between the parts is one buffer, written as an argument of the first and read as one of the second.
    let ir = ir(gpu, &[&chain]);
    let mut machine = q35_simt::Machine::new(&ir, gpu.isa.wave()).unwrap();
    let stride = act_stride(width);
    let buffers = [0; 3].map(|_| machine.allocate(tokens * stride));
    for (row, values) in x.chunks(width).enumerate() {
        machine.write(buffers[0], row * stride, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>());
    }
    let address = |at: usize| q35_simt::Arg::Address(buffers[at], 0);
    let args = [address(0), address(1), address(1), address(2)].into_iter().chain([2, 0, 0, 0].map(q35_simt::Arg::Number));
    let args: Vec<_> = args.collect();
    machine.launch(&q35_simt::Launch { kernel: &chain.name(), blocks: 2, threads: ROW_THREADS, args: &args }).unwrap();
    assert_eq!(rows(machine.bytes(buffers[2]), width), expected);
}
