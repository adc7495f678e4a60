//! What a compile has to say in ten lines.

use crate::account::Account;
use crate::budget::Allocation;
use crate::pipeline::Compiled;
use crate::size;
use crate::table::{Align, Table};
use q35_bundle::Device;
use q35_dialects::{Model, ParamRole};
use q35_target::{Label, Target};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

/// The summary of a compile; its JSON form is what `--json` prints.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Summary {
    /// Where the bundle is.
    pub bundle: String,
    /// What it was compiled for, and whether that is a model of a chip.
    pub target: String,
    /// Numbers in all parameters.
    pub weights: u64,
    /// Their bytes as f32.
    pub f32_bytes: u64,
    /// Their bytes as stored.
    pub packed_bytes: u64,
    /// Bits per weight over all parameters, scales included.
    pub effective_bits: f64,
    /// The same over the linear layers without the head.
    pub linear_bits: f64,
    /// Bytes of the embedding table; 0 if the head is the same table.
    pub embedding_bytes: u64,
    /// Bytes of the head.
    pub head_bytes: u64,
    /// Matrices that the model's files have in few bits already, by the types they are stored as: errors are those of what is added.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub quantized_sources: BTreeMap<String, usize>,
    /// Launches of one step; 0 where a chip runs one fixed program.
    pub steps: usize,
    /// Different kernels.
    pub kernels: usize,
    /// Bytes of working memory per token of a step.
    pub arena_bytes_per_token: u64,
    /// Bytes of KV cache per token of context.
    pub cache_bytes_per_token: u64,
    /// Longest context.
    pub context: u64,
    /// How a program links the object, where there is one.
    pub link: Option<String>,
    /// Peak resident set of the compile.
    pub peak_bytes: Option<u64>,
    /// Wall time of the compile.
    pub seconds: f64,
    /// Which layers got more bits, where there was a budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocation: Option<Allocation>,
}

impl Summary {
    /// Of a model and what became of it.
    pub fn new(out: &Path, target: &dyn Target, compiled: Compiled, time: Duration) -> Self {
        let Compiled { model, manifest, allocation, .. } = compiled;
        let account = Account::of(&model);
        let total = account.total();
        let kernels: BTreeSet<&str> = manifest.steps.iter().flat_map(|s| &s.variants).map(|v| v.kernel.as_str()).collect();
        Self {
            bundle: out.display().to_string(),
            target: match target.label() {
                Label::Native => target.name().to_owned(),
                label @ Label::ModelOfTheChip => format!("{}: {}", target.name(), label.words()),
            },
            weights: total.count,
            f32_bytes: total.f32_bytes(),
            packed_bytes: total.bytes,
            effective_bits: total.effective_bits(),
            linear_bits: account.role(ParamRole::Linear).effective_bits(),
            embedding_bytes: account.role(ParamRole::Embedding).bytes,
            head_bytes: account.role(ParamRole::Head).bytes,
            quantized_sources: quantized_sources(&model),
            steps: manifest.steps.len(),
            kernels: kernels.len(),
            arena_bytes_per_token: manifest.plan.bytes_per_token,
            cache_bytes_per_token: account.cache_bytes_per_token,
            context: manifest.model.context,
            link: matches!(manifest.device, Device::Cpu(_)).then(|| {
                let folder = out.join("cpu");
                format!("cc app.c {} -I{} -lm -lpthread", folder.join("model.o").display(), folder.display())
            }),
            peak_bytes: crate::memory::peak(),
            seconds: time.as_secs_f64(),
            allocation,
        }
    }

    /// Aligned text.
    pub fn listing(&self) -> String {
        let tables = match (self.embedding_bytes, self.head_bytes) {
            (0, both) => format!("{}, head: the same table", size::show(both)),
            (embedding, head) => format!("{}, head: {}", size::show(embedding), size::show(head)),
        };
        let cache = self.cache_bytes_per_token;
        let program = if self.steps > 0 {
            format!(
                "{} launches of {} kernels per step, {} of working memory per token",
                self.steps,
                self.kernels,
                size::show(self.arena_bytes_per_token)
            )
        } else {
            "one, the same for every token; its report is in the bundle".to_owned()
        };
        let lines = [
            ("bundle", self.bundle.clone()),
            ("target", self.target.clone()),
            ("weights", format!("{} numbers, {} as f32", self.weights, size::show(self.f32_bytes))),
            ("packed", format!("{}, {:.3} bits per weight with scales", size::show(self.packed_bytes), self.effective_bits)),
            ("linear", format!("{:.3} bits per weight with scales", self.linear_bits)),
            ("embedding", tables),
            ("program", program),
            (
                "cache",
                format!(
                    "{} per token, {} for {}",
                    size::show(cache),
                    size::show(cache.saturating_mul(self.context)),
                    self.context
                ),
            ),
            ("compile", format!("{:.1} s, peak memory {}", self.seconds, self.peak_bytes.map_or("?".to_owned(), size::show))),
        ];
        let mut table = Table::bare(&[Align::Left; 2]);
        let sources: Vec<String> =
            self.quantized_sources.iter().map(|(dtype, count)| format!("{count} matrices as {dtype}")).collect();
        if !sources.is_empty() {
            let what = format!("quantized already, {}: errors are relative to that", sources.join(", "));
            table.row(["source".to_owned(), what]);
        }
        let link = self.link.iter().map(|line| ("link", line.clone()));
        lines.into_iter().chain(link).for_each(|(name, text)| table.row([name.to_owned(), text]));
        let allocation = self.allocation.iter().map(|allocation| format!("\n{}", allocation.listing()));
        format!("{table}{}", allocation.collect::<String>())
    }
}

fn quantized_sources(model: &Model) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for dtype in model.params.values().filter(|param| param.role != ParamRole::Vector).filter_map(q35_quantize::source) {
        *found.entry(dtype).or_default() += 1;
    }
    found
}
