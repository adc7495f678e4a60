//! `model.h`: the text of the header, from its two templates, the table of statuses and the kernels' signatures.

use super::signature::{Argument, Signature};
use super::{Object, status};
use crate::abi::symbol;
use crate::level::Level;
use q35_target::c::{comment, expression, fill};
use std::collections::BTreeMap;
use std::fmt::Write;

const MODEL: &str = include_str!("model.h.in");
const LAYER: &str = include_str!("layer.h.in");
const KERNELS: &str = include_str!("kernels.h.in");

/// Where the prototypes of single levels come in the header, for those that want no search for the level.
const LEVELS: &str = "\
/* The same kernels as functions of their own, by level: what @p@kernel calls. */
";

/// A template with the marks that stand for the prefix, and others, replaced.
fn filled(template: &str, prefix: &str, marks: &[(&str, &str)]) -> String {
    let upper = prefix.to_ascii_uppercase();
    let mut all = vec![("p", prefix), ("P", upper.as_str())];
    all.extend_from_slice(marks);
    fill(template, &all)
}

/// The header of a model, without the line that ties it to its object.
pub(super) fn model(object: &Object<'_>, signatures: &[Signature]) -> String {
    let prefix = &object.function_prefix();
    let guard = format!("{prefix}MODEL_H").to_ascii_uppercase();
    let marks: [(&str, &str); 6] = [
        ("GUARD", &guard),
        ("vocab", &object.vocab.to_string()),
        ("context", &object.context.to_string()),
        ("weights", &object.file.bytes.to_string()),
        ("statuses", &statuses(prefix)),
        ("kernels", &kernels(object, "model", signatures)),
    ];
    filled(MODEL, prefix, &marks)
}

/// The header of a layer, without its tie.
pub(super) fn layer(object: &Object<'_>, inputs: u64, offsets: &BTreeMap<String, u64>, signatures: &[Signature]) -> String {
    let prefix = &object.function_prefix();
    let guard = format!("{prefix}LINEAR_H").to_ascii_uppercase();
    let upper = prefix.to_ascii_uppercase();
    let places = offsets.iter().fold(String::new(), |mut text, (name, offset)| {
        let _ = writeln!(text, "#define {upper}{}_AT INT64_C({offset})", name.replace('.', "_").to_ascii_uppercase());
        text
    });
    let marks: [(&str, &str); 7] = [
        ("GUARD", &guard),
        ("inputs", &inputs.to_string()),
        ("outputs", &object.vocab.to_string()),
        ("weights", &object.file.bytes.to_string()),
        ("places", &places),
        ("statuses", &statuses(prefix)),
        ("kernels", &kernels(object, "layer", signatures)),
    ];
    filled(LAYER, prefix, &marks)
}

/// The part of a header about single kernels.
fn kernels(object: &Object<'_>, what: &str, signatures: &[Signature]) -> String {
    let prefix = &object.function_prefix();
    let functions: Vec<String> =
        signatures.iter().enumerate().map(|(number, signature)| function(prefix, number, signature)).collect();
    let marks: [(&str, &str); 3] = [
        ("what", what),
        ("levels", &levels(prefix, object.levels)),
        ("functions", &(functions.concat() + &prototypes(object))),
    ];
    filled(KERNELS, prefix, &marks)
}

/// The line that ties a header to its object: the linker says the name if the object is another's.
pub(super) fn tie(symbol: &str) -> String {
    format!(
        "/* If the linker cannot find this, header and object are of different compiles: take both from one. */\n\
         extern const int32_t {symbol};\n\
         #if defined(__GNUC__)\n\
         __attribute__((used))\n\
         #endif\n\
         static const int32_t *const {symbol}_ = &{symbol};\n\n"
    )
}

/// A header with its tie, which comes before its first function.
pub(super) fn tied(header: &str, symbol: &str) -> String {
    const BEFORE: &str = "/* --- ";
    let at = header.find(BEFORE).unwrap_or_else(|| unreachable!("the template has sections"));
    format!("{}{}{}", &header[..at], tie(symbol), &header[at..])
}

fn statuses(prefix: &str) -> String {
    let upper = prefix.to_ascii_uppercase();
    status::ALL.iter().fold(String::new(), |mut text, status| {
        let _ = writeln!(text, "    {upper}{} = {}, /* {} */", status.name, status.code, status.text);
        text
    })
}

fn levels(prefix: &str, levels: &[Level]) -> String {
    let upper = prefix.to_ascii_uppercase();
    levels.iter().enumerate().fold(String::new(), |mut text, (number, level)| {
        let _ = writeln!(text, "    {upper}LEVEL_{} = {number},", level.name().to_ascii_uppercase());
        text
    })
}

/// A kernel as a function of C.
fn function(prefix: &str, number: usize, signature: &Signature) -> String {
    let Signature { kernel, op, node, max_rows, tiles, args } = signature;
    let mut text = format!("/* {op}, as in '{}'", comment(node));
    if let Some(most) = max_rows {
        let _ = write!(text, "; meant for up to {most} rows, and right for any number");
    }
    text += "\n";
    let width = args.iter().map(|arg| arg.name.len()).max().unwrap_or(0);
    for arg in args {
        let _ = writeln!(text, " *   {:width$}  {}", arg.name, comment(&arg.text));
    }
    text += " */\n";
    let params: Vec<String> = args.iter().map(|Argument { ctype, name, .. }| format!("{ctype}{name}")).collect();
    let pointers: Vec<String> = args.iter().map(|arg| format!("(void *){}", arg.name)).collect();
    let _ = write!(
        text,
        "enum {{ {upper}KERNEL_{kernel} = {number} }};\n\
         static inline void {prefix}run_{kernel}(int32_t level, const {prefix}dims *dims, {}) {{\n    \
             void *const args[] = {{ {} }};\n    \
             {prefix}kernel(level, {number}, args, &dims->tokens, 0, {});\n}}\n\n",
        params.join(", "),
        pointers.join(", "),
        expression(tiles),
        upper = prefix.to_ascii_uppercase(),
    );
    text
}

fn prototypes(object: &Object<'_>) -> String {
    let mut text = filled(LEVELS, &object.function_prefix(), &[]);
    for kernel in object.kernels {
        for &level in object.levels {
            let name = format!("{}{}", object.prefix, symbol(kernel, level));
            let _ = writeln!(text, "void {name}(void *const *args, const int64_t *dims, int64_t begin, int64_t end);");
        }
    }
    text
}
