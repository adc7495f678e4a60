//! A PE program: parameters, memory, and `step`, a straight line of calls.

use crate::build::gathers;
use crate::predict;
use q35_dialects::wse::{Arena, Axis, Call, Kernel, Part, Program, Role, Routing};
use std::fmt::Write;

/// A literal that keeps every bit of an f32.
fn float(x: f32) -> String {
    let text = format!("{x:?}");
    if text.contains(['.', 'e']) { text } else { format!("{text}.0") }
}

/// Parameters of a program that say which colors it uses.
const COLORS: [&str; 9] = [
    "row_send",
    "row_recv",
    "root_recv",
    "row_share",
    "column_send",
    "column_recv",
    "column_share",
    "stream_send",
    "stream_recv",
];

/// A statement of `step`.
enum Line {
    /// For each token, in a loop over `t`.
    Each(String),
    /// For all of them together, or for none.
    Once(String),
}

use Line::{Each, Once};

struct Printer<'a> {
    kernel: &'a Kernel,
    width: u64,
    stream: u64,
    piece: u64,
    /// Most tokens of a step.
    tokens: u64,
    out: String,
}

pub(super) fn text(program: &Program, kernel: &Kernel) -> String {
    let Program { width, stream, piece, tokens, .. } = *program;
    let mut printer = Printer { kernel, width, stream, piece, tokens, out: String::new() };
    printer.step();
    let step = std::mem::take(&mut printer.out);
    printer.head(program, &step);
    printer.out.push_str(&step);
    printer.tail();
    printer.out
}

/// Statements of a PE program, of each of its modules by `of`.
pub(super) fn statements(kernel: &Kernel, of: impl Fn(&str) -> u64) -> u64 {
    /// Of helpers, of what a step begins and ends with, of its end.
    const FRAME: u64 = 17;
    /// A width with which columns share work: that takes more statements.
    const WIDTH: u64 = 4;
    let printer = Printer { kernel, width: WIDTH, stream: 0, piece: 0, tokens: kernel.tokens, out: String::new() };
    let work = kernel.calls.iter().filter(|call| !matches!(call, Call::Comment(_)));
    let gathers = (0..kernel.calls.len()).filter_map(|at| printer.gather(at)).flatten();
    let lines: Vec<Line> = work.flat_map(|call| printer.call(call)).chain(gathers).collect();
    let uses = |module: &str| lines.iter().any(|line| line.text().contains(&format!("{module}.")));
    let loops = lines.chunk_by(|a, b| a.is_each() == b.is_each()).filter(|run| run[0].is_each() && printer.several());
    let modules = ["gemv", "vector"].into_iter().filter(|module| uses(module)).map(&of);
    let role = match kernel.role {
        Role::Layers | Role::Head => 0,
        Role::Router(_) => of("experts") + of("route"),
        Role::Expert { .. } => of("experts"),
    };
    let attentions = kernel.attentions.len() as u64 * of("attention");
    FRAME + lines.len() as u64 + loops.count() as u64 + of("comm") + modules.sum::<u64>() + attentions + role
}

impl Line {
    fn is_each(&self) -> bool {
        matches!(self, Each(_))
    }

    fn text(&self) -> &str {
        match self {
            Each(text) | Once(text) => text,
        }
    }
}

impl Printer<'_> {
    fn line(&mut self, text: impl AsRef<str>) {
        let _ = writeln!(self.out, "{}", text.as_ref());
    }

    fn name(&self, part: Part) -> &str {
        &self.kernel.buffers[part.buffer].name
    }

    /// Whether buffers hold several tokens.
    fn several(&self) -> bool {
        self.kernel.tokens > 1
    }

    /// The token of a loop.
    fn t(&self) -> &'static str {
        if self.several() { "t" } else { "0" }
    }

    /// How many tokens the calls work on.
    fn count(&self) -> &'static str {
        match self.kernel.role {
            _ if !self.several() => "1",
            Role::Expert { .. } => "count",
            Role::Layers | Role::Head | Role::Router(_) => "tokens",
        }
    }

    /// Whether a step's tokens are taken in blocks.
    fn blocks(&self) -> bool {
        self.kernel.role != Role::Head && self.kernel.tokens < self.tokens
    }

    /// So many numbers of all tokens.
    fn of_all(&self, len: u64) -> String {
        match (self.several(), len) {
            (false, _) => len.to_string(),
            (true, 1) => self.count().to_owned(),
            (true, _) => format!("{} * {len}", self.count()),
        }
    }

    /// The first number of a part of a token.
    fn at(&self, part: Part) -> String {
        let buffer = &self.kernel.buffers[part.buffer];
        match (self.several() && !buffer.scratch, buffer.len, part.at) {
            (false, ..) => part.at.to_string(),
            (true, 1, _) => "t".to_owned(),
            (true, len, 0) => format!("t * {len}"),
            (true, len, at) => format!("t * {len} + {at}"),
        }
    }

    /// A DSD over a part of a buffer, of a token.
    fn dsd(&self, part: Part) -> String {
        format!("part(&{}, {}, {})", self.name(part), self.at(part), part.len)
    }

    /// A DSD over a whole buffer, of all tokens, and how many numbers that is.
    fn all(&self, part: Part) -> String {
        debug_assert!((part.at, part.len) == (0, self.kernel.buffers[part.buffer].len), "tokens follow each other");
        let all = self.of_all(part.len);
        format!("part(&{}, 0, {all}), {all}", self.name(part))
    }

    fn pointer(&self, part: Part) -> String {
        match self.at(part).as_str() {
            "0" => format!("&{}", self.name(part)),
            at => format!("&{}[{at}]", self.name(part)),
        }
    }

    fn element(&self, part: Part) -> String {
        format!("{}[{}]", self.name(part), self.at(part))
    }

    /// Everything before `step`, of which what it uses.
    fn head(&mut self, program: &Program, step: &str) {
        let kernel = self.kernel;
        let expert = matches!(kernel.role, Role::Expert { .. });
        self.line(format!(
            "// Region of {} columns by {} rows: every PE runs this program on its part. Emitted for WSE-3, SDK 2.10.",
            program.width, kernel.height
        ));
        self.line("//");
        if expert {
            self.line("// An expert: it works on the tokens that chose it, and adds to the stream on its way through.");
            self.line("//");
        }
        self.line(format!(
            "// A step takes up to {} tokens, in blocks of up to {}, one after the other in every buffer.",
            program.tokens, kernel.tokens
        ));
        self.line("// The stream is this column's piece of the residual, then its share of cosines and sines of the token's position, then its index in the cache.");
        self.line("// Colors: layout.csl. Queues: comm.csl. Local task: 8 exit_task.");
        self.line("");
        self.line("param memcpy_params;");
        for name in ["width", "height", "top", "group"] {
            self.line(format!("param {name}: u16;"));
        }
        for name in ["first", "last"].iter().filter(|_| kernel.role.is_passed()) {
            self.line(format!("param {name}: bool;"));
        }
        for color in COLORS.iter().chain(kernel.role.has_tokens().then_some(&"token")) {
            self.line(format!("param {color}: color;"));
        }
        self.line("");
        self.line("const exit_task_id: local_task_id = @get_local_task_id(8);");
        self.line("");
        self.imports(step);
        self.line("");
        self.line("// Filled by the host before the first step, and by steps (keys, values)");
        for arena in Arena::ALL {
            let ty = if arena == Arena::Weights {
                "u16"
            } else if arena == Arena::Vectors {
                "f32"
            } else {
                "f16"
            };
            self.line(format!("var {}: [{}]{ty};", arena.name(), kernel.arenas[arena as usize].max(1)));
        }
        self.line("");
        self.line("// Vectors of a step");
        for buffer in &kernel.buffers {
            let tokens = if buffer.scratch { 1 } else { kernel.tokens };
            let len = if tokens > 1 { format!("{tokens} * {}", buffer.len) } else { buffer.len.to_string() };
            self.line(format!("var {}: [{len}]f32;", buffer.name));
        }
        self.line("");
        self.line("// Base addresses and extents are set at each use.");
        let helpers = [
            ("part", "f32_dsd", "f32", "stream", "", true),
            ("pairs", "even_dsd", "f32", "stream", ", .stride = 2", true),
            ("tile", "word_dsd", "u16", "weights", "", false),
            ("factors", "scale_dsd", "f16", "scales", "", false),
        ];
        let used: Vec<_> = helpers.iter().filter(|(name, ..)| step.contains(&format!("{name}("))).collect();
        for (_, dsd, _, array, stride, _) in &used {
            self.line(format!("const {dsd} = @get_dsd(mem1d_dsd, .{{ .base_address = &{array}, .extent = 1{stride} }});"));
        }
        self.line("");
        for (name, dsd, ty, array, _, any) in used {
            let (param, of) = if *any { (format!("p: [*]{ty}, "), "p") } else { (String::new(), *array) };
            self.line(format!("fn {name}({param}at: u16, n: u16) mem1d_dsd {{"));
            self.line(format!("  return @set_dsd_length(@set_dsd_base_addr({dsd}, &{of}[at]), n);"));
            self.line("}");
            self.line("");
        }
        if step.contains("index(") {
            self.line("// The index of a token in the cache");
            self.line("fn index(t: u16) u16 {");
            self.line(format!("  return @as(u16, stream[t * {} + {}]);", self.stream, self.stream - 1));
            self.line("}");
            self.line("");
        }
    }

    fn imports(&mut self, step: &str) {
        let kernel = self.kernel;
        self.line("const sys_mod = @import_module(\"<memcpy/memcpy>\", memcpy_params);");
        self.line("const comm = @import_module(\"comm.csl\", .{");
        self.line("  .width = width, .height = height, .top = top, .group = group,");
        for pair in COLORS.chunks(3) {
            let fields: Vec<String> = pair.iter().map(|name| format!(".{name} = {name}")).collect();
            self.line(format!("  {},", fields.join(", ")));
        }
        self.line("});");
        if step.contains("gemv.") {
            self.line(format!(
                "const gemv = @import_module(\"gemv.csl\", .{{ .max_rows = {}, .max_inputs = {}, .max_tokens = {} }});",
                kernel.largest[0].max(1),
                kernel.largest[1].max(2),
                kernel.tokens
            ));
        }
        if step.contains("vector.") {
            self.line("const vector = @import_module(\"vector.csl\");");
        }
        for (number, a) in kernel.attentions.iter().enumerate() {
            self.line(format!(
                "const attention_{number} = @import_module(\"attention.csl\", .{{ .heads = {}, .kv_heads = {}, .dim = {}, .entries = {}, .scale = {}, \
                 .window = {}, .max_tokens = {}, .comm = comm, .width = width }});",
                a.heads,
                a.kv_heads,
                a.dim,
                a.entries,
                float(a.scale),
                a.window,
                kernel.tokens
            ));
        }
        if let Role::Router(r) = kernel.role {
            self.line("const route = @import_module(\"route.csl\", .{");
            self.line(format!(
                "  .experts = {}, .choices = {}, .groups = {}, .top_groups = {},",
                r.experts, r.choices, r.groups[0], r.groups[1]
            ));
            self.line(format!(
                "  .two = {}, .sigmoid = {}, .corrected = {}, .normalize = {},",
                r.two, r.sigmoid, r.corrected, r.normalize
            ));
            self.line(format!("  .eps = {}, .floor = {}, .scale = {},", float(r.eps), float(r.floor), float(r.scale)));
            self.line("});");
        }
        if let Role::Router(Routing { choices, .. }) | Role::Expert { choices, .. } = kernel.role {
            let router = matches!(kernel.role, Role::Router(_));
            self.line("const experts = @import_module(\"experts.csl\", .{");
            self.line(format!(
                "  .router = {router}, .top = top, .height = height, .choices = {choices}, .token = token, .comm = comm,"
            ));
            self.line(format!("  .piece = {}, .stream = {}, .max_tokens = {},", self.piece, self.stream, kernel.tokens));
            self.line("});");
        }
    }

    fn step(&mut self) {
        let kernel = self.kernel;
        let whole = Part { buffer: 0, at: 0, len: self.stream };
        if self.blocks() {
            self.line("// A block is sent on before the next is taken: the region below works on it meanwhile.");
            self.line("fn step(tokens: u16) void {");
            match kernel.tokens {
                1 => {
                    self.line("  for (@range(u16, tokens)) |t| {");
                    self.line("    block(1);");
                }
                most => {
                    self.line(format!("  for (@range(u16, 0, tokens, {most})) |at| {{"));
                    self.line(format!("    block(if (tokens - at < {most}) tokens - at else {most});"));
                }
            }
            self.line("  }");
            self.line("  @activate(exit_task_id);");
            self.line("}");
            self.line("");
            self.line("fn block(tokens: u16) void {");
        } else {
            self.line("fn step(tokens: u16) void {");
        }
        match kernel.role {
            Role::Expert { adds, .. } => {
                let token = Part { buffer: 1, at: 0, len: kernel.buffers[1].len };
                let len = if self.several() { format!("tokens * {}", token.len) } else { token.len.to_string() };
                let name = self.name(token);
                self.line(format!("  const count = experts.receive_tokens(part(&{name}, 0, {len}), &{name}, tokens);"));
                let (given, param) = if self.several() { ("count", "count: u16") } else { ("", "") };
                self.line(format!("  if (count > 0) work({given});"));
                let by = kernel.buffers[adds.buffer].len;
                self.line(format!(
                    "  experts.add_to_stream(part(&{}, {}, {}), {by}, count, tokens);",
                    self.name(adds),
                    adds.at,
                    adds.len
                ));
                if !self.blocks() {
                    self.line("  @activate(exit_task_id);");
                }
                self.line("}");
                self.line("");
                self.line("// What the expert makes of the tokens that chose it");
                self.line(format!("fn work({param}) void {{"));
            }
            Role::Head if self.tokens > 1 => {
                self.line("  // Of all tokens the last one stays.");
                self.line("  for (@range(u16, tokens)) |t| {");
                self.line(format!("    comm.receive_stream({});", self.all(whole)));
                self.line("  }");
            }
            Role::Head => self.line(format!("  comm.receive_stream({});", self.all(whole))),
            Role::Layers | Role::Router(_) => {
                self.line(format!("  if (!first) comm.receive_stream({});", self.all(whole)));
            }
        }
        let of = |(at, call)| self.gather(at).into_iter().flatten().chain(self.call(call));
        let lines: Vec<Line> = kernel.calls.iter().enumerate().flat_map(of).collect();
        self.lines(&lines);
        if matches!(kernel.role, Role::Layers | Role::Router(_)) {
            self.line("");
            self.line(format!("  if (!last) comm.send_stream({});", self.all(whole)));
        }
        if !self.blocks() && !matches!(kernel.role, Role::Expert { .. }) {
            self.line("  @activate(exit_task_id);");
        }
        self.line("}");
        self.line("");
    }

    /// Statements, those for each token that follow each other in one loop.
    fn lines(&mut self, lines: &[Line]) {
        let count = self.count();
        for run in lines.chunk_by(|a, b| a.is_each() == b.is_each()) {
            let looped = run[0].is_each() && self.several();
            if looped {
                self.line(format!("  for (@range(u16, {count})) |t| {{"));
            }
            for Each(text) | Once(text) in run {
                let indent = if looped { "    " } else { "  " };
                match text.strip_prefix("//") {
                    Some(comment) => self.line(format!("\n  //{comment}")),
                    None => self.line(format!("{indent}{text}")),
                }
            }
            if looped {
                self.line("  }");
            }
        }
    }

    fn call(&self, call: &Call) -> Vec<Line> {
        let weights = |offset: &Option<u64>, len: u64| match offset {
            Some(offset) => format!("part(&vectors, {offset}, {len})"),
            None => "1.0".to_owned(),
        };
        let t = self.t();
        match call {
            Call::Comment(text) => vec![Once(format!("// {text}"))],
            Call::Norm { y, x, weight, axis, count, eps } => {
                let sum = if *axis == Axis::Columns { "row" } else { "column" };
                let all = self.of_all(1);
                vec![
                    Each(format!(
                        "result[{t}] = vector.squares({}, {}, {}, {});",
                        self.dsd(*x),
                        self.dsd(*y),
                        self.pointer(*y),
                        x.len
                    )),
                    Once(format!("comm.sum_{sum}(part(&result, 0, {all}), {all});")),
                    Each(format!(
                        "vector.normalize({}, {}, {}, result[{t}], {count}.0, {});",
                        self.dsd(*y),
                        self.dsd(*x),
                        weights(weight, y.len),
                        float(*eps)
                    )),
                ]
            }
            Call::HeadNorm { y, x, weight, dim, eps } => {
                let head = |at: u64, part: &Part| Part { at: part.at + at * dim, len: *dim, ..*part };
                let line = |at: u64| {
                    let (y, x) = (head(at, y), head(at, x));
                    Each(format!(
                        "vector.normalize({0}, {1}, {2}, vector.squares({1}, {0}, {3}, {dim}), {dim}.0, {4});",
                        self.dsd(y),
                        self.dsd(x),
                        weights(weight, *dim),
                        self.pointer(y),
                        float(*eps)
                    ))
                };
                (0..y.len / dim).map(line).collect()
            }
            Call::Load { x, split } => vec![Each(format!("gemv.load_{}({}, {t}, {});", coding(*split), self.dsd(*x), x.len))],
            Call::Product { y, matrix } => vec![Once(format!(
                "gemv.{}(part(&{}, {}, {}), {}, {}, tile({}, {}), factors({}, {}), {}, {}, {});",
                coding(matrix.split),
                self.name(*y),
                y.at,
                y.len,
                self.count(),
                self.kernel.buffers[y.buffer].len,
                matrix.weights,
                matrix.rows,
                matrix.scales,
                matrix.rows,
                matrix.rows,
                matrix.stride,
                matrix.inputs
            ))],
            Call::Sum { y, over } => {
                let over = if *over == Axis::Columns { "row" } else { "column" };
                vec![Once(format!("comm.sum_{over}({});", self.all(*y)))]
            }
            Call::Scores { y, x, weight } => vec![Each(format!(
                "vector.product({}, part(&vectors, {weight}, {}), {}, {}, {});",
                self.dsd(*y),
                y.len,
                y.len,
                self.pointer(*x),
                x.len
            ))],
            Call::Gather { y, x } => vec![
                Each(format!("comm.place_in_column({}, {}, {});", self.dsd(*y), self.dsd(*x), x.len)),
                Once(format!("comm.sum_column({});", self.all(*y))),
            ],
            Call::Spread { x, logits, correction, token } => {
                let correction = correction.map_or_else(|| self.pointer(*logits), |at| format!("&vectors[{at}]"));
                let pairs = Part { at: token.at + x.len, ..*token };
                vec![
                    Each(format!("@fmovs({}, {});", self.dsd(Part { len: x.len, ..*token }), self.dsd(*x))),
                    Each(format!("route.choose({}, {correction}, {});", self.pointer(*logits), self.pointer(pairs))),
                    Once(format!("experts.send_tokens({});", self.all(*token))),
                ]
            }
            Call::Sigmoid { x } => {
                let x = self.element(*x);
                vec![Each(format!("{x} = vector.sigmoid({x});"))]
            }
            Call::Times { y, x, by } => {
                vec![Each(format!("@fmuls({}, {}, {});", self.dsd(*y), self.dsd(*x), self.element(*by)))]
            }
            Call::Bias { y, vector } => {
                vec![Each(format!("@fadds({0}, {0}, part(&vectors, {vector}, {1}));", self.dsd(*y), y.len))]
            }
            Call::Rotate { x, dim, half, interleaved } => self.rotate(*x, *dim, *half, *interleaved),
            Call::Append { module, key, value, keys, values } => vec![Each(format!(
                "attention_{module}.append(&keys[{keys}], &values[{values}], {}, {}, index({t}));",
                self.dsd(*key),
                self.dsd(*value)
            ))],
            Call::Attend { module, y, q, keys, values } => {
                let count = self.count();
                vec![
                    Each(format!("attention_{module}.score({}, &keys[{keys}], index({t}), {t});", self.dsd(*q))),
                    Once(format!("attention_{module}.agree({count});")),
                    Each(format!("attention_{module}.mix(&values[{values}], index({t}), {t});")),
                    Once(format!("attention_{module}.gather({count});")),
                    Each(format!("attention_{module}.finish({}, {t});", self.dsd(*y))),
                ]
            }
            Call::Swiglu { y, gate, up } => {
                let [to, a, b] = [y, gate, up].map(|part| self.pointer(*part));
                let (all, len) = (self.dsd(*y), y.len);
                if predict::shares(self.kernel, self.width, len) {
                    let part = |column: &str| format!("comm.share({column}, {len})");
                    let (from, end) = (part("comm.column()"), part("comm.column() + 1"));
                    vec![
                        Each(format!("vector.swiglu_part({all}, {to}, {a}, {b}, {from}, {end});")),
                        Each(format!("comm.sum_row({all}, {len});")),
                    ]
                } else {
                    vec![Each(format!("vector.swiglu({to}, {a}, {b}, {len});"))]
                }
            }
            Call::Add { y, a, b } => vec![Each(format!("@fadds({}, {}, {});", self.dsd(*y), self.dsd(*a), self.dsd(*b)))],
            Call::Move { y, x } => vec![Each(format!("@fmovs({}, {});", self.dsd(*y), self.dsd(*x)))],
        }
    }

    /// Each column has its share of a token's cosines and sines behind the piece of the residual; the sum over the row of shares at their places are
    /// all of them, in the buffer `angles`, which is scratch.
    fn gather(&self, at: usize) -> Option<Vec<Line>> {
        let len = 2 * gathers(&self.kernel.calls, at)?;
        let own = self.pointer(Part { buffer: 0, at: self.piece, len: 1 });
        let share = |column: &str| format!("comm.share({column}, {len})");
        let (from, end) = (share("comm.column()"), share("comm.column() + 1"));
        let all = format!("part(&angles, 0, {len})");
        Some(vec![
            Each(format!("vector.place_share({all}, &angles, {own}, {from}, {end});")),
            Each(format!("comm.sum_row({all}, {len});")),
        ])
    }

    /// The buffer `turned` is scratch.
    fn rotate(&self, x: Part, dim: u64, half: u64, interleaved: bool) -> Vec<Line> {
        let name = self.name(x);
        let (cos, sin) = (format!("part(&angles, 0, {half})"), format!("part(&angles, {half}, {half})"));
        let line = |head: u64| {
            let of = |at: u64| self.at(Part { at: x.at + head * dim + at, ..x });
            let (what, second) = if interleaved { ("pairs", 1) } else { ("part", half) };
            let (a, b) = (of(0), of(second));
            Each(format!(
                "vector.rotate({what}(&{name}, {a}, {half}), {what}(&{name}, {b}, {half}), {cos}, {sin}, part(&turned, 0, {half}), \
                 part(&turned, {half}, {half}));"
            ))
        };
        (0..x.len / dim).map(line).collect()
    }

    fn tail(&mut self) {
        self.line("task exit_task() void {");
        self.line("  sys_mod.unblock_cmd_stream();");
        self.line("}");
        self.line("");
        let pointers = [
            ("weights", "u16"),
            ("scales", "f16"),
            ("vectors", "f32"),
            ("keys", "f16"),
            ("values", "f16"),
            ("stream", "f32"),
            ("result", "f32"),
        ];
        for (name, ty) in pointers {
            self.line(format!("var {name}_ptr: [*]{ty} = &{name};"));
        }
        self.line("");
        self.line("comptime {");
        self.line("  @bind_local_task(exit_task, exit_task_id);");
        for (name, _) in pointers {
            self.line(format!("  @export_symbol({name}_ptr, \"{name}\");"));
        }
        self.line("  @export_symbol(step);");
        self.line("}");
    }
}

fn coding(split: bool) -> &'static str {
    if split { "split" } else { "byte" }
}
