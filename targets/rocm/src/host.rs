//! A program part that runs the bundle's steps through HIP, for applications that link it: the plan as tables, and a small executor.
//!
//! What enters: steps, memory plan and feature levels, as the manifest has them. What leaves: C++ text and its C header. The text needs HIP's
//! headers and the C++ standard library, nothing of this project.

use q35_bundle::{Binding, CachePart, MemoryPlan, RocmLevel, Rows, Step};
use std::collections::BTreeMap;
use std::fmt::Write;

const HEADER: &str = include_str!("../host/model.h");
const SOURCE: &str = include_str!("../host/model.hip.cpp");

/// The file of the header in the bundle.
pub const HEADER_FILE: &str = "rocm/q35_model.h";
/// The file of the program part.
pub const SOURCE_FILE: &str = "rocm/q35_model.hip.cpp";

/// What is known of a lowered program.
pub struct Host<'a> {
    /// Prefix of every symbol.
    pub prefix: &'a str,
    /// Columns of the logits.
    pub vocab: u64,
    /// The launches.
    pub steps: &'a [Step],
    /// Memory.
    pub plan: &'a MemoryPlan,
    /// Kernels for every architecture.
    pub levels: &'a [RocmLevel],
}

impl Host<'_> {
    /// The header.
    pub fn header(&self) -> String {
        self.filled(HEADER)
    }

    /// The program part.
    pub fn source(&self) -> String {
        self.filled(SOURCE).replace("@TABLES@\n", &self.tables())
    }

    fn filled(&self, text: &str) -> String {
        let guard = format!("{}Q35_MODEL_H", self.prefix).to_ascii_uppercase();
        let words = [("@GUARD@", guard), ("@VOCAB@", self.vocab.to_string()), ("@PREFIX@", self.prefix.to_owned())];
        words.into_iter().fold(text.to_owned(), |text, (word, value)| text.replace(word, &value))
    }

    fn tables(&self) -> String {
        let variants: Vec<_> = self.steps.iter().flat_map(|step| &step.variants).collect();
        let kernels = numbered(variants.iter().map(|variant| variant.kernel.as_str()));
        let tensors = numbered(self.steps.iter().flat_map(|step| &step.args).filter_map(|arg| match arg {
            Binding::Weight(name) => Some(name.as_str()),
            _ => None,
        }));
        let mut text = String::new();
        let mut constant = |name: &str, value: u64| {
            let _ = writeln!(text, "constexpr uint64_t {name} = {value};");
        };
        constant("bytes_per_token", self.plan.bytes_per_token);
        constant("bytes_per_logit_row", self.plan.bytes_per_logit_row);
        constant("logits_offset", self.plan.logits_offset_per_row);
        let chosen = self.plan.chosen_offset_per_row.unwrap_or_else(|| unreachable!("a model's logits are chosen from"));
        constant("chosen_offset", chosen);
        let symbols = in_order(&kernels).map(|kernel| quoted(&format!("{}{kernel}", self.prefix)));
        table(&mut text, "const char *const kernels", symbols);
        table(&mut text, "const char *const tensors", in_order(&tensors).map(quoted));
        let layer = |layer: &q35_bundle::CacheLayer| format!("{{{}, {}, {}}}", layer.kv_heads, layer.key_dim, layer.value_dim);
        table(&mut text, "const Layer layers", self.plan.cache.iter().map(layer));
        let terms = variants.iter().flat_map(|variant| &variant.tiles.0).map(|(factor, by)| {
            let dims: Vec<String> = by.iter().map(|dim| (*dim as usize).to_string()).collect();
            format!("{{{factor}u, {}, {{{}}}}}", by.len(), dims.join(", "))
        });
        table(&mut text, "const Term terms", terms);
        let firsts = starts(variants.iter().map(|variant| variant.tiles.0.len()));
        let of_variants = variants.iter().zip(firsts).map(|(variant, first)| {
            let most = variant.max_rows.map_or(-1, |most| i64::try_from(most).unwrap_or(i64::MAX));
            format!("{{{most}, {}, {}, {first}}}", kernels[variant.kernel.as_str()], variant.tiles.0.len())
        });
        table(&mut text, "const Variant variants", of_variants);
        let binding = |arg: &Binding| match arg {
            Binding::Weight(name) => format!("{{Kind::weight, {}}}", tensors[name.as_str()]),
            Binding::Arena { rows: Rows::Tokens, offset_per_row } => format!("{{Kind::tokens, {offset_per_row}}}"),
            Binding::Arena { rows: Rows::Logits, offset_per_row } => format!("{{Kind::logits, {offset_per_row}}}"),
            Binding::Cache { layer, part } => {
                format!("{{Kind::cache, {}}}", 2 * layer + u32::from(*part == CachePart::Value))
            }
            Binding::Input(input) => format!("{{Kind::input, {}}}", *input as usize),
        };
        table(&mut text, "const Binding bindings", self.steps.iter().flat_map(|step| &step.args).map(binding));
        let places = starts(self.steps.iter().map(|step| step.variants.len()));
        let places = places.into_iter().zip(starts(self.steps.iter().map(|step| step.args.len())));
        let steps = self.steps.iter().zip(places).map(|(step, (variant, argument))| {
            let (rows, node) = (step.rows.dim() as usize, quoted(&step.node));
            format!("{{{node}, {rows}, {}, {variant}, {}, {argument}}}", step.variants.len(), step.args.len())
        });
        table(&mut text, "const Step steps", steps);
        for level in self.levels {
            let threads = in_order(&kernels).map(|kernel| level.threads[kernel].to_string());
            table(&mut text, &format!("const uint32_t threads_{}", level.name), threads);
        }
        let levels = self
            .levels
            .iter()
            .map(|level| format!("{{{}, {}, threads_{}}}", quoted(&level.name), quoted(&level.file), level.name));
        table(&mut text, "const Level levels", levels);
        text
    }
}

/// Names with numbers, in the order of names.
fn numbered<'a>(names: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, usize> {
    let mut numbers: BTreeMap<&str, usize> = names.map(|name| (name, 0)).collect();
    numbers.values_mut().enumerate().for_each(|(at, number)| *number = at);
    numbers
}

fn in_order<'a>(numbered: &'a BTreeMap<&'a str, usize>) -> impl Iterator<Item = &'a str> {
    numbered.keys().copied()
}

/// Where each of some lists starts that lie one after the other.
fn starts(lengths: impl Iterator<Item = usize>) -> Vec<usize> {
    lengths
        .scan(0, |next, length| {
            let start = *next;
            *next += length;
            Some(start)
        })
        .collect()
}

fn table(text: &mut String, declaration: &str, rows: impl Iterator<Item = String>) {
    let _ = writeln!(text, "{declaration}[] = {{");
    rows.for_each(|row| {
        let _ = writeln!(text, "    {row},");
    });
    text.push_str("};\n");
}

/// A C string literal: whatever is no plain character is an escape of three octal digits, which nothing after it can lengthen.
fn quoted(text: &str) -> String {
    let escaped = text.bytes().map(|byte| match byte {
        b'"' | b'\\' | b'?' => format!("\\{}", char::from(byte)),
        b' '..=b'~' => char::from(byte).to_string(),
        _ => format!("\\{byte:03o}"),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_model_cannot_leave_their_literals() {
        assert_eq!(quoted("a\"b\\\n\u{e9}1??/"), "\"a\\\"b\\\\\\012\\303\\2511\\?\\?/\"");
    }

    #[test]
    fn lists_start_where_those_before_them_end() {
        assert_eq!(starts([2, 0, 3].into_iter()), [0, 2, 2]);
        assert_eq!(numbered(["b", "a", "b"].into_iter()), BTreeMap::from([("a", 0), ("b", 1)]));
    }
}
