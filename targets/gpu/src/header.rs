//! `kernels.h`: names, argument structures and launch rules of the kernels, for programs that use a driver themselves.
//!
//! What enters: steps, memory plan, threads of each kernel, and the words of a driver. What leaves: a header of C, which includes nothing but
//! `stdint.h`.

use q35_bundle::{Binding, CachePart, Input, MemoryPlan, Rows, Step, Variant, row_stride};
use q35_target::c::{comment, expression, fill};
use q35_target::{Request, layer_input};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

const TEMPLATE: &str = include_str!("kernels.h.in");
/// Steps that are listed; those of a whole model are in its manifest.
const LISTED: usize = 8;

/// What differs between drivers.
#[derive(Clone, Copy, Debug)]
pub struct Driver {
    /// What the kernels' files hold.
    pub code: &'static str,
    /// How a kernel is launched, as lines of a comment; the marks `@p@` and `@P@` are the prefix.
    pub launch: &'static str,
}

/// A program, as its header describes it.
pub struct Header<'a> {
    /// What was lowered.
    pub request: &'a Request<'a>,
    /// Memory.
    pub plan: &'a MemoryPlan,
    /// The launches.
    pub steps: &'a [Step],
    /// Threads of a group by kernel, for each number of lanes that a wave may have.
    pub threads: &'a BTreeMap<u32, BTreeMap<String, u32>>,
    /// Who launches.
    pub driver: Driver,
}

impl Header<'_> {
    /// The text of the header.
    pub fn text(&self) -> String {
        let (prefix, upper) = (self.request.prefix, self.request.prefix.to_ascii_uppercase());
        let (mut kernels, mut seen) = (String::new(), BTreeSet::new());
        for step in self.steps {
            for variant in step.variants.iter().filter(|variant| seen.insert(&variant.kernel)) {
                kernels += &self.kernel(step, variant);
            }
        }
        let words = [("p", prefix), ("P", &*upper)];
        let marks: [(&str, &str); 8] = [
            ("code", self.driver.code),
            ("launch", &fill(self.driver.launch, &words)),
            ("GUARD", &format!("{upper}KERNELS_H")),
            ("token", &self.plan.bytes_per_token.to_string()),
            ("row", &self.plan.bytes_per_logit_row.to_string()),
            ("result", &self.result()),
            ("steps", &self.list()),
            ("kernels", &kernels),
        ];
        fill(TEMPLATE, &[&words[..], &marks].concat())
    }

    /// Width of what goes in, where that is an activation and the program a layer.
    fn layer_inputs(&self) -> Option<u64> {
        layer_input(self.request.graph)?.matrix().map(|(_, width)| width)
    }

    /// What comes out, and where; of a layer also what goes in.
    fn result(&self) -> String {
        let outputs = self.request.graph.outputs.first().and_then(|(_, value)| self.request.graph.ty(*value).matrix());
        let (outputs, upper) = (outputs.map_or(0, |(_, width)| width), self.request.prefix.to_ascii_uppercase());
        let stride = |width: u64| row_stride(width).unwrap_or(0) / 4;
        let (at, to) = (self.plan.logits_offset_per_row, stride(outputs));
        match self.layer_inputs() {
            Some(inputs) => format!(
                "/* The layer, y = W x: x is the caller's, and y begins at tokens * {upper}Y_AT bytes of the working memory. Strides are the floats from one row\n \
                 * to the next. */\n\
                 #define {upper}INPUTS {inputs}\n#define {upper}OUTPUTS {outputs}\n\
                 #define {upper}X_STRIDE {}\n#define {upper}Y_STRIDE {to}\n#define {upper}Y_AT {at}\n",
                stride(inputs)
            ),
            None => format!(
                "/* The logits begin at logit_rows * {upper}LOGITS_AT bytes of their section; the stride is the floats from one row to the next. */\n\
                 #define {upper}VOCAB {outputs}\n#define {upper}LOGITS_STRIDE {to}\n#define {upper}LOGITS_AT {at}\n"
            ),
        }
    }

    /// The steps of a short program, in words.
    fn list(&self) -> String {
        if self.steps.len() > LISTED {
            return format!("/* The program has {} steps: see manifest.json, steps. */\n", self.steps.len());
        }
        let line = |step: &Step| {
            let kernels: Vec<&str> = step.variants.iter().map(|variant| variant.kernel.as_str()).collect();
            let args: Vec<String> = step.args.iter().map(|arg| comment(&self.words(arg))).collect();
            format!(" *   {}({})\n", kernels.join(" or "), args.join(", "))
        };
        format!("/* The program, in order:\n{} */\n", self.steps.iter().map(line).collect::<String>())
    }

    /// What a step is given.
    fn words(&self, arg: &Binding) -> String {
        match arg {
            Binding::Arena { rows: Rows::Tokens, offset_per_row } => format!("tokens * {offset_per_row}"),
            Binding::Arena { rows: Rows::Logits, offset_per_row } => format!("logit_rows * {offset_per_row}"),
            Binding::Weight(name) => format!("tensor '{name}'"),
            Binding::Cache { layer, part } => format!("{} of layer {layer}", name(*part)),
            Binding::Input(_) => self.field(arg).0.to_owned(),
        }
    }

    /// A kernel's name, structure, tiles and threads.
    fn kernel(&self, step: &Step, variant: &Variant) -> String {
        let Variant { kernel, max_rows, tiles } = variant;
        let (prefix, upper) = (self.request.prefix, self.request.prefix.to_ascii_uppercase());
        let mut text = format!("/* {}, as in '{}'", step.op, comment(&step.node));
        if let Some(most) = max_rows {
            let _ = write!(text, "; meant for up to {most} rows");
        }
        let _ = writeln!(
            text,
            " */\n#define {upper}KERNEL_{kernel} \"{prefix}{kernel}\"\n#define {upper}THREADS_{kernel}{}",
            self.threads(kernel)
        );
        let _ = writeln!(text, "struct {prefix}args_{kernel} {{");
        for (at, arg) in step.args.iter().enumerate() {
            let (field, what) = self.field(arg);
            let _ = writeln!(text, "    uint64_t {field}_{at}; /* {what} */");
        }
        let _ = writeln!(
            text,
            "    struct {prefix}dims dims;\n}};\n\
             static inline int64_t {prefix}tiles_{kernel}(const struct {prefix}dims *dims) {{\n    \
                 (void)dims;\n    return {};\n}}\n",
            expression(tiles)
        );
        text
    }

    /// What comes after the name of a kernel's macro: its threads, or a choice among them by the lanes of a wave.
    fn threads(&self, kernel: &str) -> String {
        let mut choices = self.threads.iter().map(|(wave, threads)| (wave, threads[kernel]));
        match (self.threads.len(), choices.next_back()) {
            (_, None) => unreachable!("a target has a level"),
            (1, Some((_, threads))) => format!(" {threads}"),
            (_, Some((_, last))) => {
                let chosen =
                    choices.rfold(last.to_string(), |rest, (wave, threads)| format!("(wave) == {wave} ? {threads} : {rest}"));
                format!("(wave) ({chosen})")
            }
        }
    }

    /// Name and meaning of an argument.
    fn field(&self, arg: &Binding) -> (&'static str, String) {
        match (arg, self.layer_inputs()) {
            (Binding::Arena { rows, .. }, _) => {
                let rows = if *rows == Rows::Tokens { "token" } else { "row of logits" };
                ("memory", format!("working memory, rows for each {rows}"))
            }
            (Binding::Weight(name), _) => ("weight", format!("a tensor of the weights file, such as '{}'", comment(name))),
            (Binding::Cache { part, .. }, _) => (name(*part), "half a layer of the cache".to_owned()),
            (Binding::Input(Input::Tokens), Some(inputs)) => ("x", format!("the caller's rows of {inputs} floats")),
            (Binding::Input(of), _) => (input(*of), "an array of the caller's".to_owned()),
        }
    }
}

fn name(part: CachePart) -> &'static str {
    match part {
        CachePart::Key => "keys",
        CachePart::Value => "values",
    }
}

fn input(input: Input) -> &'static str {
    match input {
        Input::Tokens => "tokens",
        Input::Positions => "positions",
        Input::Slots => "slots",
        Input::Index => "index",
        Input::LogitRows => "logit_rows",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use q35_dialects::{Graph, Ty, q35};
    use q35_graph::Value;

    /// The words that a header has for the threads of kernel `k`.
    fn threads(of: &[(u32, u32)]) -> String {
        let (graph, params) = (Graph::new(), BTreeMap::new());
        let request = Request::new(&graph, &params, "a_", 1);
        let threads = of.iter().map(|(wave, threads)| (*wave, BTreeMap::from([("k".to_owned(), *threads)]))).collect();
        let driver = Driver { code: "code", launch: " * @p@ @P@\n" };
        let plan = MemoryPlan::default();
        Header { request: &request, plan: &plan, steps: &[], threads: &threads, driver }.threads("k")
    }

    #[test]
    fn threads_depend_on_waves_where_those_differ() {
        assert_eq!(threads(&[(32, 128)]), " 128");
        assert_eq!(threads(&[(32, 128), (64, 256)]), "(wave) ((wave) == 32 ? 128 : 256)");
    }

    #[test]
    fn a_layer_says_what_goes_in_and_where_it_comes_out() {
        let mut graph = Graph::new();
        let ty = Ty::Act { rows: q35_dialects::Rows::Tokens, width: 20 };
        let x = Value { node: graph.add("x", q35::Op::from(q35::Tokens {}), &[], vec![ty]), result: 0 };
        graph.outputs.push(("logits".to_owned(), x));
        let params = BTreeMap::new();
        let request = Request::new(&graph, &params, "a_", 1);
        let threads = BTreeMap::from([(32, BTreeMap::from([("k".to_owned(), 64)]))]);
        let variant = Variant { max_rows: Some(8), kernel: "k".to_owned(), tiles: Default::default() };
        let args = vec![Binding::Input(Input::Tokens), Binding::Weight("w*/".to_owned())];
        let step = Step { node: "n".to_owned(), op: "linear".to_owned(), rows: Rows::Tokens, variants: vec![variant], args };
        let plan = MemoryPlan { logits_offset_per_row: 128, ..MemoryPlan::default() };
        let driver = Driver { code: "code", launch: " * @p@ @P@\n" };
        let text = Header { request: &request, plan: &plan, steps: &[step], threads: &threads, driver }.text();
        for line in [
            " * a_ A_",
            "#define A_INPUTS 20",
            "#define A_X_STRIDE 32",
            "#define A_Y_AT 128",
            " *   k(x, tensor 'w* /')",
            "#define A_THREADS_k 64",
            "    uint64_t x_0; /* the caller's rows of 20 floats */",
            "    uint64_t weight_1; /* a tensor of the weights file, such as 'w* /' */",
        ] {
            assert!(text.lines().any(|found| found == line), "'{line}' is not in\n{text}");
        }
    }
}
