//! GGUF files: metadata and tensors in one file, as llama.cpp's tools write them (the layout is in ggml's `docs/gguf.md`).
//!
//! A GGUF file has no graph either. [`reader`] reads its structure, [`metadata`] its values; [`config`] makes the configuration of a checkpoint out
//! of them, [`names`] says what the tensors of that checkpoint are called here, and [`vocabulary`] makes the files that would lie beside it. [`source`]
//! hands the tensors out, and [`crate::decoder`] writes the graph. Tensors in blocks stay in blocks until they are read.

mod config;
mod metadata;
mod names;
mod reader;
mod source;
#[cfg(test)]
mod tests;
mod vocabulary;

use crate::checkpoint::families;
use crate::decoder::{Attention, Decoder, ExpertLayout, Ffn};
use crate::report::Report;
use crate::{ModelKind, Options, files, onnx};
use names::Architecture;
use q35_diag::{Code, Diagnostic, Result};
use q35_graph::source::SourceGraph;
use source::Source;
use std::collections::BTreeMap;
use std::path::Path;

/// What the name of a GGUF file ends with.
const EXTENSION: &str = "gguf";

/// Whether a path names a GGUF file.
pub(crate) fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(EXTENSION))
}

/// A file, opened.
pub(crate) struct Opened {
    pub(crate) graph: SourceGraph,
    pub(crate) kind: ModelKind,
    /// The longest context it was made for.
    pub(crate) context: Option<u64>,
    /// Files that a checkpoint would have beside it, or why there are none.
    pub(crate) files: std::result::Result<BTreeMap<&'static str, Vec<u8>>, Diagnostic>,
}

/// Opens the file at `path`.
pub(crate) fn open(path: &Path, options: &Options) -> Result<Opened> {
    let name = path.display().to_string();
    let at = |problem: Diagnostic| problem.at("file", &name);
    let storage = files::map(path, &name, Code::CannotRead)?;
    let file = reader::read(storage).map_err(at)?;
    let architecture = names::architecture(&file.metadata).map_err(at)?;
    let mut config = config::config(&file, architecture).map_err(at)?;
    let files = vocabulary::files(&file.metadata).map_err(at);
    let mut report = Report::default();
    let ahead = config::ahead(&file, architecture);
    let mut source = Source::new(file, architecture, &mut report);
    if ahead > 0 {
        source.leave_out_from(config.num_hidden_layers.unwrap_or(0));
    }
    let rope = config.rope_scaling.get_or_insert_default();
    source.factors(rope);
    let mut decoder = families::decoder(&config, options.context).map_err(at)?;
    adapt(&mut decoder, architecture, &mut source);
    let graph = decoder.graph(&mut source);
    let ready = source.finish();
    report.finish(())?;
    let kind = ModelKind::Gguf { architecture: architecture.name.to_owned() };
    Ok(Opened { graph: onnx::build(&graph, ready)?, kind, context: config.max_position_embeddings, files })
}

/// What a GGUF file stores in another way than the checkpoint it was made from.
fn adapt(decoder: &mut Decoder, architecture: &Architecture, source: &mut Source) {
    // Factors of norms are stored whole.
    decoder.unit_offset = false;
    decoder.tied = !source.has("lm_head.weight");
    if let Attention::Heads(heads) = &mut decoder.attention {
        // Rows of q and k are stored in the order in which neighbours rotate together, or as they are.
        heads.turn = architecture.turn;
    }
    for layer in &mut decoder.layers {
        if let Ffn::Experts(experts) = &mut layer.ffn {
            experts.layout = ExpertLayout::Stacks(["experts.gate_proj", "experts.up_proj", "experts.down_proj"]);
        }
    }
    // What the frequencies of the main rotation are divided by.
    if let (Some(rotation), Some(factors)) = (decoder.rotations.first_mut(), source.divisors()) {
        if factors.len() == rotation.inv_freq.len() {
            rotation.inv_freq.iter_mut().zip(factors).for_each(|(f, by)| *f /= by);
        } else {
            source.wrong_divisors(rotation.inv_freq.len(), factors.len());
        }
    }
}
