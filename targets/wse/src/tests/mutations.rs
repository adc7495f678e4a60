//! Changes of printed text: each gives an error when it is read, checked or run, or a wrong result. Some are chosen by hand, where code is most likely
//! to be wrong; the others are all there are of a kind.

use super::Gemv;
use crate::emit::files;
use crate::weights::Coding;
use q35_csl::{Layout, layout};
use q35_dialects::wse::{Attention, Axis, Buffer, Call, Kernel, Part, Program, Region};
use q35_fabric::{Fabric, Settings};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Files by name.
type Texts = BTreeMap<String, String>;

/// A changed place: the file, what stands there, what stands there instead.
struct Mutant {
    kind: &'static str,
    file: String,
    at: Range<usize>,
    with: String,
}

/// Loads a program from its text.
fn load(texts: &Texts) -> Result<Fabric, String> {
    let layout = layout::parse(texts).and_then(|sources| Layout::build(&sources)).map_err(|e| e.to_string())?;
    Fabric::new(layout, Settings::default()).map_err(|e| e.to_string())
}

/// The places in a text between `before` and the next of `after`.
fn between<'a>(text: &'a str, before: &'a str, after: char) -> impl Iterator<Item = Range<usize>> + 'a {
    text.match_indices(before).filter_map(move |(at, _)| {
        let start = at + before.len();
        text[start..].find(after).map(|len| start..start + len)
    })
}

/// The last argument of each call of a builtin: what stands before the bracket that closes it, behind the last comma.
fn last_arguments<'a>(text: &'a str, call: &'a str) -> impl Iterator<Item = Range<usize>> + 'a {
    text.match_indices(call).filter_map(move |(at, _)| {
        let (mut depth, mut comma) = (0, None);
        for (i, c) in text[at..].char_indices() {
            match c {
                '(' => depth += 1,
                ')' if depth == 1 => return comma.map(|comma: usize| at + comma + 2..at + i),
                ')' => depth -= 1,
                ',' if depth == 1 => comma = Some(i),
                _ => {}
            }
        }
        None
    })
}

const DIRECTIONS: [&str; 5] = ["NORTH", "SOUTH", "EAST", "WEST", "RAMP"];

/// All mutants of the kinds that are generated.
fn all(texts: &Texts) -> Vec<Mutant> {
    let mut found = Vec::new();
    let routes = &texts["layout.csl"];
    // Colors that have a route: to take another's number is no change where that one goes nowhere.
    let routed: BTreeSet<&str> = between(routes, "@set_color_config(x, y, ", ',').map(|at| &routes[at]).collect();
    for (file, text) in texts {
        let mut add = |kind: &'static str, at: Range<usize>, with: &str| {
            found.push(Mutant { kind, file: file.clone(), at, with: with.to_owned() });
        };
        let line = |at: usize| {
            text[..at].rfind('\n').map_or(0, |start| start + 1)..text[at..].find('\n').map_or(text.len(), |len| at + len)
        };
        let dropped = [
            ("dropped route", "@set_color_config("),
            ("missing unblock", "unblock_cmd_stream("),
            ("missing activation", "  @activate("),
            ("missing initialization of a queue", "@initialize_queue("),
            ("unbound task", "@bind_local_task("),
            ("missing export", "@export_"),
        ];
        for (kind, call) in dropped {
            text.match_indices(call).for_each(|(at, _)| add(kind, line(at), ""));
        }
        for place in between(text, ".rx = .{", '}').chain(between(text, ".tx = .{", '}')) {
            let old = &text[place.clone()];
            for new in DIRECTIONS.iter().filter(|new| !old.contains(**new)) {
                let (first, rest) = old.split_once(", ").map_or((old, None), |(first, rest)| (first, Some(rest)));
                add("swapped direction", place.clone(), &rest.map_or((*new).to_owned(), |rest| format!("{new}, {rest}")));
                if rest.is_some() {
                    add("swapped direction", place.clone(), &format!("{first}, {new}"));
                }
                add("another direction", place.clone(), &format!("{old}, {new}"));
            }
        }
        let colors: Vec<(&str, Range<usize>)> = text
            .match_indices(": color = @get_color(")
            .map(|(at, call)| {
                let (name, start) = (text[..at].rfind(' ').map_or("", |from| &text[from + 1..at]), at + call.len());
                (name, start..start + text[start..].find(')').unwrap_or(0))
            })
            .filter(|(name, _)| routed.contains(name))
            .collect();
        for ((name, place), (other, number)) in colors.iter().flat_map(|a| colors.iter().map(move |b| (a, b))) {
            if name != other {
                add("reused color", place.clone(), &text[number.clone()]);
            }
        }
        // Columns have no roots: the queue that they name for them is bound to nothing.
        let rootless = |place: &Range<usize>| {
            !text[line(place.start)].contains(".root_queue = 4") || text[..place.start].ends_with(".chain_queue = ")
        };
        let queues =
            [".chain_queue = ", ".root_queue = ", ".share_queue = "].into_iter().flat_map(|name| between(text, name, ','));
        let bound = ["@get_input_queue(", "@get_output_queue("].into_iter().flat_map(|name| between(text, name, ')'));
        for place in queues.chain(bound).filter(rootless) {
            let own = text[place.clone()].parse::<u16>();
            for other in (2..8).filter(|other| own.as_ref().is_ok_and(|own| own != other)) {
                add("reused queue", place.clone(), &other.to_string());
            }
        }
        if file != "layout.csl" {
            // What routers and experts alone run is not run here.
            let theirs = ["place_in_column(", "pass_stream(", "add_to_stream("];
            let run = |place: &Range<usize>| {
                let function = text[..place.start].rfind("\nfn ").map_or("", |at| &text[at + 4..]);
                !theirs.iter().any(|name| function.starts_with(name))
            };
            for place in last_arguments(text, "@set_dsd_length(").filter(run) {
                for more in ["+", "-"] {
                    add("wrong extent", place.clone(), &format!("{} {more} 1", &text[place.clone()]));
                }
            }
        }
    }
    found
}

/// What a mutant is, in whichever program it is met: its kind, its file, its line, the place in the line, what stands there instead.
type Key = (&'static str, String, String, usize, String);

/// Of each mutant whether a program notices it. Programs share modules and lines of their layouts, and not each runs all of them.
#[derive(Default)]
struct Noticed(BTreeMap<Key, bool>);

impl Noticed {
    fn run(&mut self, program: &Program, sound: impl Fn(Fabric) -> bool) {
        let texts = files(program);
        assert!(load(&texts).is_ok_and(&sound), "the program as it is holds");
        for Mutant { kind, file, at, with } in all(&texts) {
            let text = &texts[&file];
            let start = text[..at.start].rfind('\n').map_or(0, |start| start + 1);
            let line = text[start..].lines().next().unwrap_or_default().to_owned();
            let known = self.0.entry((kind, file.clone(), line, at.start - start, with.clone())).or_insert(false);
            if !*known {
                let mut changed = texts.clone();
                if let Some(text) = changed.get_mut(&file) {
                    text.replace_range(at, &with);
                }
                *known = !load(&changed).is_ok_and(&sound);
            }
        }
    }
}

/// Rows that hold the stream, and between them two regions that double it: x is 4 x in the end.
fn passing() -> Program {
    let part = Part { buffer: 0, at: 0, len: 2 };
    let of = |name: &str, height: u64, tokens: u64, calls: Vec<Call>| {
        let result = Buffer { scratch: calls.is_empty(), ..Buffer::new("result", 1) };
        let buffers = vec![Buffer::new("stream", 3), result];
        Kernel { name: name.to_owned(), height, tokens, group: 2, buffers, calls, ..Kernel::default() }
    };
    let kernels = vec![of("edge", 1, 5, vec![]), of("layers", 2, 2, vec![Call::Add { y: part, a: part, b: part }])];
    let regions = [(0, 1, 0), (1, 2, 1), (3, 2, 1), (5, 1, 0)].map(|(top, height, kernel)| Region { top, height, kernel });
    Program { width: 2, regions: regions.into(), kernels, stream: 3, piece: 2, tokens: 5 }
}

fn passes(mut fabric: Fabric) -> bool {
    let stream = |column: usize, factor: f32| -> Vec<f32> {
        let token = |t: usize| [t as f32 + 1.0, (column + t) as f32 - 2.5].map(|x| factor * x).into_iter().chain([t as f32]);
        (0..5).flat_map(token).collect()
    };
    // Twice: what a step leaves behind is found.
    (0..2).all(|_| {
        let wrote = (0..2).all(|column| fabric.write((column, 0), "stream", &stream(column, 1.0)).is_ok());
        let came = |fabric: &Fabric, column: usize| {
            let mut found = vec![0.0; 15];
            fabric.read((column, 5), "stream", &mut found).is_ok() && found == stream(column, 4.0)
        };
        wrote && fabric.launch("step", &[5]).is_ok() && (0..2).all(|column| came(&fabric, column))
    })
}

/// Columns of [`attending`], tokens of a step of it.
const SEEN: [usize; 2] = [5, 4];

/// Attention of one head of two columns, for so many entries of the cache on each PE: key, value and query of a token are its stream.
fn attending(entries: u64) -> Program {
    let [width, tokens] = SEEN.map(|n| n as u64);
    let part = |at: u64| Part { buffer: 0, at, len: 2 };
    let y = Part { buffer: 1, at: 0, len: 2 };
    let calls = vec![
        Call::Append { module: 0, key: part(0), value: part(2), keys: 0, values: 0 },
        Call::Attend { module: 0, y, q: part(4), keys: 0, values: 0 },
    ];
    let attention = Attention { heads: 1, kv_heads: 1, dim: 2, entries, scale: 0.5, window: 0 };
    let kernel = Kernel {
        name: "layers".to_owned(),
        height: 1,
        tokens,
        group: 2,
        buffers: vec![Buffer::new("stream", 7), Buffer::new("result", 2)],
        arenas: [1, 1, 1, 2 * entries, 2 * entries],
        attentions: vec![attention],
        calls,
        ..Kernel::default()
    };
    Program {
        width,
        regions: vec![Region { top: 0, height: 1, kernel: 0 }],
        kernels: vec![kernel],
        stream: 7,
        piece: 6,
        tokens,
    }
}

/// Two steps: entries of the second stand behind those of the first.
fn attends(mut fabric: Fabric) -> bool {
    let [width, tokens] = SEEN;
    let number = |token: usize, at: usize| ((token * 7 + at * 5) % 11) as f32 / 4.0 - 1.0;
    (0..2).all(|step| {
        let of = |t: usize| (0..6).map(move |at| number(t, at)).chain([t as f32]);
        let stream: Vec<f32> = (step * tokens..(step + 1) * tokens).flat_map(of).collect();
        let wrote = (0..width).all(|column| fabric.write((column, 0), "stream", &stream).is_ok());
        if !wrote || fabric.launch("step", &[tokens as u16]).is_err() {
            return false;
        }
        let mut found = vec![0.0; 2 * tokens];
        (0..width).all(|column| {
            fabric.read((column, 0), "result", &mut found).is_ok()
                && found.chunks_exact(2).enumerate().all(|(t, found)| {
                    let t = step * tokens + t;
                    let weight = |j: usize| (0.5 * (number(t, 4) * number(j, 0) + number(t, 5) * number(j, 1))).exp();
                    let all: f32 = (0..=t).map(weight).sum();
                    let wanted = [2, 3].map(|at| (0..=t).map(|j| weight(j) * number(j, at)).sum::<f32>() / all);
                    found.iter().zip(wanted).all(|(found, wanted)| (found - wanted).abs() < 0.004)
                })
        })
    })
}

/// Mutants that compute the same: file, line, what stands there instead, why.
const SAME: &[(&str, &str, &str, &str)] = &[
    (
        "comm.csl",
        "const stream_oq: output_queue = @get_output_queue(6);",
        "7",
        "no other output queue has that number where there are no experts",
    ),
    (
        "attention.csl",
        "@fmovs(@set_dsd_length(@set_dsd_base_addr(sums_dsd, &sums[first]), sums_len), 0.0);",
        "sums_len - 1",
        "the last denominator is set afterwards",
    ),
    ("total.csl", "const low_dsd = @set_dsd_length(v_dsd, left);", "left + 1", "one sum more, which nobody reads"),
];

/// Every mutant of these kinds, of a product with sums in rows and columns, and of a stream in blocks.
#[test]
fn every_mutant_of_a_kind_is_caught() {
    let product = Gemv::grouped(Axis::Columns, Coding::Split, [5, 2], [6, 5 * 32], 2).block(2, 0..2);
    let other = Gemv::new(Axis::Rows, Coding::Byte, [2, 3], [8, 12]);
    let sound =
        |gemv: &Gemv, fabric: Fabric| gemv.run_on(fabric).is_ok_and(|(y, exact, size, _)| gemv.holds(&y, &exact, &size));
    let mut noticed = Noticed::default();
    noticed.run(&product.program, |fabric| sound(&product, fabric));
    noticed.run(&other.program, |fabric| sound(&other, fabric));
    noticed.run(&passing(), passes);
    noticed.run(&attending(2), attends);
    // Elements of a key are further apart than a stride can be.
    noticed.run(&attending(128), attends);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    noticed.0.keys().for_each(|(kind, ..)| *counts.entry(kind).or_default() += 1);
    println!("{} mutants: {counts:?}", noticed.0.len());
    let missed =
        noticed.0.iter().filter(|(_, noticed)| !**noticed).map(|((_, file, line, _, with), _)| (&**file, line.trim(), &**with));
    let same: Vec<_> = SAME.iter().map(|(file, line, with, _)| (*file, *line, *with)).collect();
    assert_eq!(missed.collect::<Vec<_>>(), same);
}

/// Changes of a printed program, in its layout, its chains, its decoder: each gives an error or a wrong sum.
#[test]
fn every_chosen_mutation_of_a_printed_program_is_caught() {
    let gemv = Gemv::grouped(Axis::Columns, Coding::Split, [9, 2], [24, 9 * 64], 4).block(4, 0..3);
    let cases: &[(&str, &str, &str)] = &[
        ("layout.csl", "RX_R_TX_E = .{ .rx = .{RAMP}, .tx = .{EAST} }", "RX_R_TX_E = .{ .rx = .{RAMP}, .tx = .{WEST} }"),
        ("layout.csl", "RX_W_TX_E = .{ .rx = .{WEST}, .tx = .{EAST} }", "RX_W_TX_E = .{ .rx = .{WEST}, .tx = .{EAST, RAMP} }"),
        (
            "layout.csl",
            "RX_E_TX_RW = .{ .rx = .{EAST}, .tx = .{RAMP, WEST} }",
            "RX_E_TX_RW = .{ .rx = .{EAST}, .tx = .{WEST} }",
        ),
        ("layout.csl", "      @set_color_config(x, y, root_even, .{ .routes = RX_W_TX_E });\n", ""),
        ("layout.csl", "      @set_color_config(x, y, root_odd, .{ .routes = RX_R_TX_E });\n", ""),
        ("layout.csl", "      @set_color_config(x, y, row_share, .{ .routes = RX_E_TX_R });\n", ""),
        ("layout.csl", "const root_odd: color = @get_color(10)", "const root_odd: color = @get_color(9)"),
        ("layout.csl", "const row_share: color = @get_color(2)", "const row_share: color = @get_color(22)"),
        ("layout.csl", "const root = x % 4 == 3", "const root = x % 4 == 2"),
        ("layout.csl", "const group_even = x / 4", "const group_even = x / 2"),
        ("layout.csl", "const x_even = x % 2 == 0", "const x_even = x % 2 == 1"),
        ("layout.csl", ".group = 4", ".group = 6"),
        ("layout.csl", "(if (group_even) root_even else root_odd)", "(if (group_even) root_odd else root_even)"),
        ("layout.csl", ".first = true", ".first = false"),
        ("layout.csl", "@set_rectangle(width, height)", "@set_rectangle(width, height + 1)"),
        ("layout.csl", "const width: u16 = 9", "const width: u16 = 8"),
        ("comm.csl", ".chain_queue = 2, .root_queue = 7", ".chain_queue = 2, .root_queue = 2"),
        ("comm.csl", ".chain_queue = 4", ".chain_queue = 3"),
        ("comm.csl", ".length = width, .group = group", ".length = width, .group = width"),
        ("comm.csl", ".recv = row_recv, .root_recv = root_recv", ".recv = root_recv, .root_recv = row_recv"),
        ("chain.csl", "place() == length - 1", "place() == length - 2"),
        ("chain.csl", "@fadds(v_dsd, root_dsd, v_dsd)", "@fmovs(v_dsd, root_dsd)"),
        ("chain.csl", "@fadds(out_dsd, in_dsd, v_dsd)", "@fmovs(out_dsd, in_dsd)"),
        ("chain.csl", "const in_dsd = @set_dsd_length(chain_in_dsd, n)", "const in_dsd = @set_dsd_length(chain_in_dsd, n - 1)"),
        (
            "chain.csl",
            "const root_dsd = @set_dsd_length(root_in_dsd, n)",
            "const root_dsd = @set_dsd_length(root_in_dsd, 2 * n)",
        ),
        ("chain.csl", "@fmovs(v_dsd, @set_dsd_length(share_in_dsd, n))", "@fmovs(v_dsd, @set_dsd_length(share_in_dsd, n - 1))"),
        ("chain.csl", "  return_result(v_dsd, n);\n", ""),
        ("chain.csl", "  @initialize_queue(share_iq, .{ .color = share });\n", ""),
        ("gemv.csl", "inside(w0, 9, 12, acc, k)", "inside(w0, 8, 12, acc, k)"),
        ("gemv.csl", "across(w3, w4, 2, 14, 13", "across(w3, w4, 2, 13, 13"),
        ("gemv.csl", "top(w4, 13, acc, k + 23)", "top(w4, 12, acc, k + 23)"),
        ("gemv.csl", "inside(w6, 4, 13, acc, k + 31)", "inside(w6, 4, 13, acc, k + 30)"),
        ("gemv.csl", "@sar16(code_dsd, word_dsd, down)", "@slr16(code_dsd, word_dsd, down)"),
        ("gemv.csl", "@or16(code_dsd, code_dsd, upper_dsd)", "@and16(code_dsd, code_dsd, upper_dsd)"),
        ("gemv.csl", "* 0.5", "* 0.25"),
        ("gemv.csl", "7 * stride", "6 * stride"),
        ("gemv.csl", "@fmuls(y_dsd, y_dsd, factor_dsd)", "@fmovs(y_dsd, factor_dsd)"),
        ("gemv.csl", "  if (several) others(acc_dsd, k);\n", ""),
        ("gemv.csl", "at = at + max_inputs", "at = at + max_inputs + 1"),
        ("gemv.csl", "several = count > 1", "several = count > 3"),
        ("gemv.csl", "@fmachs(y_dsd, y_dsd, value_dsd, x[at])", "@fmachs(y_dsd, y_dsd, value_dsd, x[k])"),
        ("total.csl", "left = left / 2", "left = left / 4"),
        ("total.csl", "@increment_dsd_offset(low_dsd, @as(i16, left), f32)", "low_dsd"),
        (
            "layers.csl",
            "gemv.load_split(part(&stream, t * 65, 64), t, 64)",
            "gemv.load_split(part(&stream, t * 64, 64), t, 64)",
        ),
        ("layers.csl", "comm.sum_row(part(&result, 0, tokens * 12), tokens * 12)", "comm.sum_row(part(&result, 0, 12), 12)"),
        ("layers.csl", "@activate(exit_task_id)", "@block(exit_task_id)"),
        ("layers.csl", "  sys_mod.unblock_cmd_stream();\n", ""),
    ];
    let caught = |file: &str, from: &str, to: &str| -> bool {
        let mut texts = files(&gemv.program);
        let text = texts.get_mut(file).unwrap();
        assert!(text.contains(from), "{from} in {file}");
        *text = text.replacen(from, to, 1);
        !load(&texts).and_then(|fabric| gemv.run_on(fabric)).is_ok_and(|(y, exact, size, _)| gemv.holds(&y, &exact, &size))
    };
    assert!(!caught("layers.csl", "// Region", "// A region"), "the program as it is holds");
    let missed: Vec<_> = cases.iter().filter(|(file, from, to)| !caught(file, from, to)).collect();
    assert!(missed.is_empty(), "{missed:#?}");
}
