//! Hugging Face checkpoints: a folder of `config.json` and safetensors files.
//!
//! A checkpoint has no graph. [`config`] is read; [`table`] says what its family does beside it, and [`families`], with [`windows`], [`rope`] and
//! [`experts`], makes of both the decoder it describes ([`numbers`] says which numbers they may have); [`shards`] finds its tensors and [`source`]
//! hands them out. Then [`crate::decoder`] writes the graph, and from there on it is imported like any ONNX file.

pub(crate) mod config;
mod experts;
pub(crate) mod families;
mod numbers;
mod rope;
mod shards;
mod source;
pub(crate) mod table;
#[cfg(test)]
mod tests;
mod windows;

use crate::onnx::{self, External};
use crate::report::Report;
use crate::{ModelKind, Options, files};
use config::Config;
use q35_diag::{Code, Diagnostic, Result};
use q35_graph::source::SourceGraph;
use shards::Shards;
use source::{Leftovers, Source};
use std::path::Path;

/// The weight of a head of its own.
const HEAD: &str = "lm_head.weight";

/// Opens the checkpoint in `folder`.
pub(crate) fn open(folder: &Path, options: &Options) -> Result<(SourceGraph, ModelKind, Vec<Diagnostic>)> {
    let path = folder.join("config.json");
    if !path.is_file() {
        return Err(Diagnostic::error(Code::NotAModel, "the folder holds no config.json, so it is no checkpoint")
            .at("folder", folder.display())
            .help("name a folder with config.json and *.safetensors, or an .onnx or .gguf file")
            .into());
    }
    let name = path.display().to_string();
    let config = files::map(&path, &name, Code::CannotRead)?;
    let config = config::read(config.bytes()).map_err(|problem| problem.at("file", &name))?;
    let mut decoder = families::decoder(&config, options.context).map_err(|problem| problem.at("file", &name))?;
    let tile = tile(&config).map_err(|problem| problem.at("file", &name))?;
    let mut report = Report::default();
    let shards = Shards::open(folder, &mut External::new(&path), &mut report);
    // Configurations leave out what their family's default is; then the tensors tell.
    decoder.tied = config.tie_word_embeddings.unwrap_or(!shards.has(HEAD));
    let left = Leftovers {
        tied: decoder.tied,
        layers: decoder.layers.len() as u64,
        further: config.num_nextn_predict_layers.unwrap_or(0),
    };
    let mut source = Source::new(shards, tile, &mut report);
    let graph = decoder.graph(&mut source);
    let ready = source.finish(&left);
    report.finish(())?;
    let architecture = config.model_type().to_owned();
    let warnings = rope::by_length(&config, options.context).map(|warning| warning.at("file", &name)).into_iter().collect();
    Ok((onnx::build(&graph, ready)?, ModelKind::Checkpoint { architecture }, warnings))
}

/// Rows and columns that share a scale in weights that are quantized already, if that is so.
fn tile(config: &Config) -> std::result::Result<Option<[u64; 2]>, Diagnostic> {
    let Some(quantization) = &config.quantization_config else { return Ok(None) };
    match (quantization.quant_method.as_deref().unwrap_or_default(), quantization.weight_block_size.as_deref()) {
        ("fp8" | "fbgemm_fp8" | "compressed-tensors" | "mxfp4", None) => Ok(None),
        ("fp8", Some(&[rows, cols])) if rows > 0 && cols > 0 => Ok(Some([rows, cols])),
        ("fp8", Some(other)) => Err(numbers::wrong(format!("weight_block_size is {other:?}"))),
        (method, _) => {
            let what = format!("the checkpoint's weights are quantized already, by a method that is not supported: '{method}'");
            Err(Diagnostic::error(Code::UnsupportedForm, what).help("use the checkpoint it was made from"))
        }
    }
}
