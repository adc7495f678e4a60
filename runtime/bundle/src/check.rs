//! What must hold of a manifest before anything is run from it. The rows of [`check`] are the invariants a runtime relies on:
//!
//! 1. Every file lies inside the bundle; those that the device loads are among them.
//! 2. The model's vocabulary and context are positive and fit an `i32`.
//! 3. A row of logits lies inside its section of the arena; both sections and all offsets are multiples of 64.
//! 4. Cache layers are not empty, and small enough that a token's share of the cache can be counted.
//! 5. Every step has variants by ascending `max_rows`, the last without; kernel names are identifiers.
//! 6. Every argument exists: arena offsets inside their section, tensors in the weights file (and aligned), cache layers in the plan.
//! 7. Interface roles name cache layers of the plan; passive outputs name passive inputs; there is one token input.
//! 8. Every feature level has an identifier for a name, and no two have the same.
//! 9. A wafer's regions, memories and tensors have sizes that a wafer has, and tensors that the weights file has.
//! 10. A GPU's kernels all have groups of 1 to 1024 threads.
//! 11. Where tokens are chosen, the last step works on logit rows and its last argument is their place.

use crate::path::is_inside;
use crate::tensors::ALIGN;
use crate::{Binding, Device, Manifest, Role, Rows, Step, WaferRegion, WseDevice, row_stride};
use q35_diag::{Code, Diagnostic, Diagnostics};
use std::collections::{BTreeMap, BTreeSet};

/// Elements of cache that one token may take: far beyond any model, far below overflow.
const ABSURD: u64 = 1 << 32;
/// More rows or columns than any wafer has.
const WAFER: u64 = 2048;
/// Words of 16 bits in the memory of a wafer's processing element.
const MEMORY_WORDS: u64 = 24 * 1024;

/// Every violated invariant. `tensor` finds the data of a tensor of the weights file.
pub(crate) fn check<'a>(manifest: &Manifest, tensor: &dyn Fn(&str) -> Option<&'a [u8]>) -> Diagnostics {
    let mut found = Check(Diagnostics::new());
    let plan = &manifest.plan;
    let layers = plan.cache.len();

    for rel in manifest.files.keys() {
        found.unless(is_inside(rel), || format!("file name '{}' leaves the bundle", rel.escape_debug()));
    }
    for object in manifest.device.objects() {
        found.unless(manifest.files.contains_key(&object), || {
            format!("the object '{}' is not among the files", object.escape_debug())
        });
    }
    found.names(&manifest.device);
    match &manifest.device {
        Device::Cpu(_) | Device::Tsp(_) => {}
        Device::Cuda(device) => found.threads(&device.threads, manifest),
        Device::Rocm(device) => device.levels.iter().for_each(|level| found.threads(&level.threads, manifest)),
        Device::Wse(device) => found.wse(device, manifest, tensor),
    }

    for (name, value) in [("vocabulary", manifest.model.vocab), ("context", manifest.model.context)] {
        found.unless((1..=i32::MAX as u64).contains(&value), || format!("the model's {name} is {value}"));
    }

    let logits_end = row_stride(manifest.model.vocab).and_then(|row| row.checked_add(plan.logits_offset_per_row));
    found.unless(logits_end.is_some_and(|end| end <= plan.bytes_per_logit_row), || {
        "the logits lie outside the arena".to_owned()
    });
    for (what, bytes) in [
        ("a token", plan.bytes_per_token),
        ("a logit row", plan.bytes_per_logit_row),
        ("the logits' offset", plan.logits_offset_per_row),
    ] {
        found.unless(bytes % ALIGN == 0 && bytes <= ABSURD, || {
            format!("{what} takes {bytes} bytes of the arena, no sensible multiple of {ALIGN}")
        });
    }

    if let Some(offset_per_row) = plan.chosen_offset_per_row {
        let place = Binding::Arena { rows: Rows::Logits, offset_per_row };
        let written = manifest.steps.last().is_some_and(|step| step.rows == Rows::Logits && step.args.last() == Some(&place));
        found.unless(written, || "no step chooses tokens".to_owned());
    }

    for (i, layer) in plan.cache.iter().enumerate() {
        let sound = [layer.key_dim, layer.value_dim]
            .iter()
            .all(|dim| layer.kv_heads.checked_mul(*dim).is_some_and(|elements| (1..=ABSURD).contains(&elements)));
        found.unless(sound, || {
            format!("cache layer {i} has {} heads of {} and {} columns", layer.kv_heads, layer.key_dim, layer.value_dim)
        });
    }

    for step in &manifest.steps {
        found.step(step);
        for arg in &step.args {
            let missing = match arg {
                Binding::Arena { rows, offset_per_row } => {
                    let section = match rows {
                        Rows::Tokens => plan.bytes_per_token,
                        Rows::Logits => plan.bytes_per_logit_row,
                    };
                    (*offset_per_row >= section || offset_per_row % ALIGN != 0)
                        .then(|| format!("arena offset {offset_per_row} of {section}"))
                }
                Binding::Weight(name) => {
                    let aligned = tensor(name).is_some_and(|data| (data.as_ptr().addr() as u64).is_multiple_of(ALIGN));
                    (!aligned).then(|| format!("tensor '{}'", name.escape_debug()))
                }
                Binding::Cache { layer, .. } => (*layer as usize >= layers).then(|| format!("cache layer {layer} of {layers}")),
                Binding::Input(_) => None,
            };
            if let Some(what) = missing {
                found.0.push(broken(format!("an argument does not exist: {what}")).at("node", step.node.escape_debug()));
            }
        }
    }

    let interface = &manifest.interface;
    let tokens = interface.inputs.iter().filter(|p| p.role == Role::TokenIds).count();
    found.unless(tokens == 1, || format!("the interface has {tokens} inputs of token ids"));
    for port in interface.inputs.iter().chain(&interface.outputs) {
        let sound = match &port.role {
            Role::PastKey(l) | Role::PastValue(l) | Role::PresentKey(l) | Role::PresentValue(l) => (*l as usize) < layers,
            Role::Passive(Some(input)) => interface.inputs.iter().any(|p| p.name == *input),
            _ => true,
        };
        found.unless(sound, || {
            format!("'{}' of the interface stands for something that does not exist", port.name.escape_debug())
        });
    }
    found.0
}

/// A violated invariant.
fn broken(what: String) -> Diagnostic {
    Diagnostic::error(Code::NotABundle, format!("the manifest contradicts itself: {what}"))
}

/// A C identifier.
fn is_identifier(text: &str) -> bool {
    text.chars().enumerate().all(|(i, c)| c == '_' || c.is_ascii_alphabetic() || (i > 0 && c.is_ascii_digit()))
        && !text.is_empty()
}

/// Collects what is wrong.
struct Check(Diagnostics);

impl Check {
    fn unless(&mut self, sound: bool, what: impl FnOnce() -> String) {
        if !sound {
            self.0.push(broken(what()));
        }
    }

    /// Invariant 8.
    fn names(&mut self, device: &Device) {
        let prefix = device.prefix();
        let mut names = BTreeSet::new();
        for level in device.levels() {
            self.unless(is_identifier(level) && names.insert(level), || {
                format!("feature level '{}' is misnamed", level.escape_debug())
            });
        }
        self.unless(prefix.is_empty() || is_identifier(prefix), || "the symbol prefix is no identifier".to_owned());
    }

    /// Invariant 10.
    fn threads(&mut self, threads: &BTreeMap<String, u32>, manifest: &Manifest) {
        for variant in manifest.steps.iter().flat_map(|step| &step.variants) {
            let threads = threads.get(&variant.kernel);
            self.unless(threads.is_some_and(|threads| (1..=1024).contains(threads)), || {
                format!("kernel '{}' has groups of {} threads", variant.kernel.escape_debug(), threads.map_or(0, |n| *n))
            });
        }
    }

    /// Invariant 9.
    fn wse<'a>(&mut self, device: &WseDevice, manifest: &Manifest, tensor: &dyn Fn(&str) -> Option<&'a [u8]>) {
        let input = &device.input;
        let tensors = [
            (&input.table, manifest.model.vocab.checked_mul(input.hidden)),
            (&input.scales, manifest.model.vocab.checked_mul(2)),
        ];
        let angles = input.inv_freq.iter().map(|name| (name, input.half.checked_mul(4)));
        for (name, bytes) in tensors.into_iter().chain(angles) {
            let enough = tensor(name).is_some_and(|data| bytes.is_some_and(|bytes| data.len() as u64 >= bytes));
            self.unless(enough, || format!("tensor '{}' is too short", name.escape_debug()));
        }
        let rows = |region: &WaferRegion| region.top <= WAFER && (1..=WAFER).contains(&region.height);
        let pieces = device.regions().flat_map(|region| &region.arrays).flat_map(|array| {
            array.pieces.iter().map(|piece| {
                piece.share > 0
                    && tensor(&piece.tensor).is_some()
                    && array.words <= MEMORY_WORDS
                    && piece.to.checked_add(piece.words).is_some_and(|end| end <= array.words)
                    && [piece.from, piece.column, piece.row].iter().all(|bytes| *bytes <= 1 << 40)
            })
        });
        let caches = device.regions().flat_map(|region| &region.caches).map(|cache| {
            let count = manifest.plan.cache.len();
            let sizes = [cache.heads, cache.dim, cache.entries, cache.keys, cache.values];
            (cache.layer as usize) < count
                && cache.share > 0
                && cache.heads > 0
                && sizes.iter().all(|size| *size <= MEMORY_WORDS)
        });
        let sound = (1..=WAFER).contains(&device.width)
            && !device.wafers.is_empty()
            && device.wafers.iter().all(|wafer| !wafer.regions.is_empty())
            && device.regions().all(rows)
            && (1..=MEMORY_WORDS).contains(&device.tokens)
            && input.piece > 0
            && input.piece <= MEMORY_WORDS
            && input.half <= MEMORY_WORDS
            && (1..=MEMORY_WORDS).contains(&device.logits)
            && (1..=i32::MAX as u64).contains(&device.context)
            && pieces.chain(caches).all(|sound| sound);
        self.unless(sound, || "the wafer's regions make no sense".to_owned());
    }

    /// Invariant 5.
    fn step(&mut self, step: &Step) {
        let limits: Vec<u64> = step.variants.iter().map(|v| v.max_rows.unwrap_or(u64::MAX)).collect();
        let ordered = limits.is_sorted_by(|a, b| a < b) && step.variants.last().is_some_and(|v| v.max_rows.is_none());
        let named = step.variants.iter().all(|v| is_identifier(&v.kernel));
        if !(ordered && named) {
            self.0.push(
                broken("the kernels of a step are not a choice by number of rows".to_owned())
                    .at("node", step.node.escape_debug()),
            );
        }
    }
}
