//! `kernels.h`: names, argument structures and launch rules of the kernels, for programs that use the driver themselves.

use q35_bundle::{Binding, CachePart, Input, MemoryPlan, Rows, Step, Variant};
use q35_target::c::{comment, expression, fill};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

const TEMPLATE: &str = include_str!("kernels.h.in");
/// Steps that are listed; those of a whole model are in its manifest.
const LISTED: usize = 8;

/// The text of the header.
pub(crate) fn text(prefix: &str, plan: &MemoryPlan, steps: &[Step], threads: &BTreeMap<String, u32>) -> String {
    let upper = prefix.to_ascii_uppercase();
    let mut kernels = String::new();
    let mut seen = BTreeSet::new();
    for step in steps {
        for variant in step.variants.iter().filter(|variant| seen.insert(&variant.kernel)) {
            kernels += &kernel(prefix, step, variant, threads[&variant.kernel]);
        }
    }
    let marks: [(&str, &str); 7] = [
        ("p", prefix),
        ("P", &upper),
        ("GUARD", &format!("{upper}KERNELS_H")),
        ("token", &plan.bytes_per_token.to_string()),
        ("row", &plan.bytes_per_logit_row.to_string()),
        ("steps", &list(steps)),
        ("kernels", &kernels),
    ];
    fill(TEMPLATE, &marks)
}

/// The steps of a short program, in words.
fn list(steps: &[Step]) -> String {
    if steps.len() > LISTED {
        return format!("/* The program has {} steps: see manifest.json, steps. */\n", steps.len());
    }
    let line = |step: &Step| {
        let kernels: Vec<&str> = step.variants.iter().map(|variant| variant.kernel.as_str()).collect();
        let args: Vec<String> = step.args.iter().map(|arg| comment(&words(arg))).collect();
        format!(" *   {}({})\n", kernels.join(" or "), args.join(", "))
    };
    format!("/* The program, in order:\n{} */\n", steps.iter().map(line).collect::<String>())
}

fn words(arg: &Binding) -> String {
    match arg {
        Binding::Arena { rows: Rows::Tokens, offset_per_row } => format!("tokens * {offset_per_row}"),
        Binding::Arena { rows: Rows::Logits, offset_per_row } => format!("logit_rows * {offset_per_row}"),
        Binding::Weight(name) => format!("tensor '{name}'"),
        Binding::Cache { layer, part } => format!("{} of layer {layer}", name(*part)),
        Binding::Input(input) => self::input(*input).to_owned(),
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

/// A kernel's name, structure, tiles and threads.
fn kernel(prefix: &str, step: &Step, variant: &Variant, threads: u32) -> String {
    let Variant { kernel, max_rows, tiles } = variant;
    let upper = prefix.to_ascii_uppercase();
    let mut text = format!("/* {}, as in '{}'", step.op, comment(&step.node));
    if let Some(most) = max_rows {
        let _ = write!(text, "; meant for up to {most} rows");
    }
    let _ =
        writeln!(text, " */\n#define {upper}KERNEL_{kernel} \"{prefix}{kernel}\"\n#define {upper}THREADS_{kernel} {threads}");
    let _ = writeln!(text, "struct {prefix}args_{kernel} {{");
    for (at, arg) in step.args.iter().enumerate() {
        let (field, what) = match arg {
            Binding::Arena { rows, .. } => {
                let rows = if *rows == Rows::Tokens { "token" } else { "row of logits" };
                ("memory", format!("working memory, rows for each {rows}"))
            }
            Binding::Weight(name) => ("weight", format!("a tensor of the weights file, such as '{}'", comment(name))),
            Binding::Cache { part, .. } => (name(*part), "half a layer of the cache".to_owned()),
            Binding::Input(of) => (input(*of), "an array of the caller's".to_owned()),
        };
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
