//! Checkpoints, raised and run by the reference evaluation, against logits that another library computed from the same files.
#![allow(clippy::unwrap_used)] // a test may panic

#[allow(dead_code)]
mod common;

use q35_dialects::data::{Matrix, ParamValue};
use q35_dialects::interp::{Session, StepInput};
use q35_dialects::{Model, ParamName};
use q35_passes::raise::{Options, raise};
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Everything that a stored case says: one row of tokens after another, which of them are real, and the logits of those that count.
struct Case {
    dims: [usize; 2],
    ids: Vec<f64>,
    mask: Option<Vec<f64>>,
    valid: Option<Vec<f64>>,
    logits: Vec<f64>,
}

fn array(file: &SafeTensors, name: &str) -> Option<(Vec<usize>, Vec<f64>)> {
    let view = file.tensor(name).ok()?;
    let bytes = view.data();
    let data = match view.dtype() {
        Dtype::I64 => bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect(),
        Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect(),
        Dtype::F16 => bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes(b.try_into().unwrap()).into()).collect(),
        Dtype::U8 | Dtype::BOOL => bytes.iter().map(|b| f64::from(*b)).collect(),
        other => panic!("{name} is {other:?}"),
    };
    Some((view.shape().to_vec(), data))
}

impl Case {
    /// A case without earlier tokens.
    fn read(path: &Path) -> Option<Self> {
        let bytes = std::fs::read(path).ok()?;
        let file = SafeTensors::deserialize(&bytes).unwrap();
        if file.names().iter().any(|name| name.contains("past") && file.tensor(name).unwrap().shape().get(2) != Some(&0)) {
            return None;
        }
        let (dims, ids) = array(&file, "input_ids")?;
        Some(Self {
            dims: dims.try_into().unwrap(),
            ids,
            mask: array(&file, "attention_mask").map(|a| a.1),
            valid: array(&file, "valid").map(|a| a.1),
            logits: array(&file, "ref.logits").or_else(|| array(&file, "logits")).unwrap().1,
        })
    }

    /// The largest difference of the model's logits from the stored ones.
    fn run(&self, model: &Model, params: &BTreeMap<ParamName, Arc<ParamValue>>) -> f64 {
        let [batch, tokens] = self.dims;
        let of = |list: &Option<Vec<f64>>, at: usize| list.as_ref().is_none_or(|list| list[at] != 0.0);
        let (mut step, mut places) = (StepInput::default(), Vec::new());
        for b in 0..batch {
            let seen = (0..tokens).map(|s| b * tokens + s).filter(|at| of(&self.mask, *at));
            for (index, at) in seen.enumerate() {
                step.tokens.push(self.ids[at] as u32);
                step.positions.push(index as u32);
                step.slots.push(b as u32);
                step.index.push(index as u32);
                step.logit_rows.push(places.len() as u32);
                places.push(at);
            }
        }
        let logits = Session::new(&model.graph, params).step(&step).unwrap();
        let vocab = model.facts.vocab as usize;
        let mut worst = 0f64;
        for (row, at) in places.into_iter().enumerate().filter(|(_, at)| of(&self.valid, *at)) {
            for (got, want) in logits.row(row).iter().zip(&self.logits[at * vocab..]) {
                let difference = (f64::from(*got) - want).abs();
                worst = if difference.is_nan() { f64::INFINITY } else { worst.max(difference) };
            }
        }
        worst
    }
}

fn values(model: &Model) -> BTreeMap<ParamName, Arc<ParamValue>> {
    let read = |source: &q35_graph::WeightView| {
        let mut data = vec![0.0; (source.rows() * source.cols()) as usize];
        source.read_rows(0..source.rows(), &mut data);
        Arc::new(ParamValue::Float(Matrix::new(source.cols() as usize, data)))
    };
    model.params.iter().map(|(name, param)| (name.clone(), read(&param.source))).collect()
}

/// Every case of a graph may start with a cache.
const NO_CASE: &str = "no case starts without a cache";

/// Opens, raises and runs; the largest difference over all cases of a folder that start without a cache, or why there is none.
fn difference(model: &Path, cases: &Path) -> Result<f64, String> {
    difference_in(model, &[0, 1, 2].map(|case| cases.join(format!("io_{case}.safetensors"))))
}

/// The same for cases in these files, as far as they are there.
fn difference_in(model: &Path, cases: &[PathBuf]) -> Result<f64, String> {
    let imported = q35_import::open(model).map_err(|e| format!("import: {e}"))?;
    let model = raise(&imported.graph, &Options::default()).map_err(|e| format!("raise: {e}"))?;
    let params = values(&model);
    let cases: Vec<Case> = cases.iter().filter_map(|path| Case::read(path)).collect();
    if cases.is_empty() {
        return Err(NO_CASE.to_owned());
    }
    Ok(cases.iter().map(|case| case.run(&model, &params)).fold(0.0, f64::max))
}

#[test]
fn checkpoints_of_the_corpus_give_their_stored_logits() {
    let Some(corpus) = common::corpus() else { return };
    let (mut bad, mut done) = (Vec::new(), 0);
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&corpus).unwrap().map(|e| e.unwrap().path()).collect();
    folders.sort();
    for folder in folders.into_iter().filter(|f| f.join("hf").is_dir()) {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let atol = {
            let meta: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("meta.json")).unwrap()).unwrap();
            meta["suggested_atol"].as_f64().unwrap()
        };
        match difference(&folder.join("hf"), &folder) {
            Ok(worst) => {
                println!("{name}: {worst:.2e}, allowed {atol:.0e}");
                done += 1;
                if worst > atol {
                    bad.push(format!("{name}: {worst:.2e} > {atol:.0e}"));
                }
            }
            Err(why) if why == NO_CASE => println!("{name}: {why}"),
            Err(why) => bad.push(format!("{name}: {why}")),
        }
    }
    assert!(bad.is_empty() && done > 20, "{done}: {}", bad.join("\n"));
}

/// Checkpoints that `tests/data/checkpoints.py` of the importer wrote, with the logits of the library that defines their families.
#[test]
fn every_family_gives_its_library_s_logits() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../import/tests/data/checkpoints");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    folders.sort();
    let mut bad = Vec::new();
    for folder in &folders {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        match difference(folder, folder) {
            Ok(worst) => {
                println!("{name}: {worst:.2e}");
                if worst > 1e-4 {
                    bad.push(format!("{name}: {worst:.2e}"));
                }
            }
            Err(why) => bad.push(format!("{name}: {why}")),
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// GGUF files that `tests/data/make_gguf.py` of the importer made of the same checkpoints; those in blocks have logits of their own.
#[test]
fn gguf_files_give_their_checkpoint_s_logits() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../import/tests/data");
    let mut files: Vec<PathBuf> = std::fs::read_dir(data.join("gguf")).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "gguf"));
    files.sort();
    let mut bad = Vec::new();
    for path in &files {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let own = path.with_extension("safetensors");
        let cases = if own.is_file() { own } else { data.join("checkpoints").join(&name).join("io_0.safetensors") };
        match difference_in(path, &[cases]) {
            Ok(worst) => {
                println!("{name}: {worst:.2e}");
                if worst > 1e-4 {
                    bad.push(format!("{name}: {worst:.2e}"));
                }
            }
            Err(why) => bad.push(format!("{name}: {why}")),
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}
