//! Runs a safetensors file of *graph inputs*, under the names they have in the graph the bundle was made from, and returns the graph's
//! outputs under theirs.
//!
//! The program behind a bundle knows no padding: a batch is ragged. So padded columns are dropped on the way in (module `rows`) and
//! come back as zeros. Only the token ids must be there; an absent cache is empty, an absent mask is all ones, absent positions count
//! columns. Inputs that a file's header lists and the graph lacks are warned of. Integers may be i32 or i64, floats f16, bf16 or f32; outputs are f32.

mod rows;
mod tensors;

use crate::device::CacheSpan;
use crate::{Chunk, Options, Session, Want};
use q35_bundle::{Bundle, CachePart, Interface, Port, Role};
use q35_diag::{Code, Diagnostic, Diagnostics, Result};
use rows::{Row, rows};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize};
use std::collections::HashMap;
use std::sync::Arc;
use tensors::{floats, grid};

/// The cache that comes with a file: per layer keys and values, each `[B][heads][P][columns]`.
struct Past {
    length: usize,
    layers: Vec<[Option<Vec<f32>>; 2]>,
}

/// An output under its name in the graph.
struct Output<'a> {
    name: &'a str,
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

fn bad(what: impl Into<String>) -> Diagnostic {
    Diagnostic::error(Code::BadInputs, what)
}

/// What running a file of inputs gives.
#[derive(Debug)]
pub struct Ran {
    /// The graph's outputs: the content of a safetensors file.
    pub outputs: Vec<u8>,
    /// What the user may not expect.
    pub warnings: Diagnostics,
}

/// Runs `file` (the content of a safetensors file) on a session made for it.
///
/// `options` sets everything but the cache, which is as large as the file needs.
pub fn run(bundle: &Arc<Bundle>, options: &Options, file: &[u8]) -> Result<Ran> {
    let unsound = |e| bad(format!("this is not a sound safetensors file: {e}"));
    let (_, header) = SafeTensors::read_metadata(file).map_err(unsound)?;
    let file = SafeTensors::deserialize(file).map_err(unsound)?;
    let interface = &bundle.manifest().interface;
    let find = |role: &Role| {
        interface.inputs.iter().find(|port| port.role == *role).and_then(|port| Some((port, file.tensor(&port.name).ok()?)))
    };

    let mut wrong = Diagnostics::new();
    let mut optional = |role: Role| find(&role).and_then(|(port, tensor)| wrong.absorb(grid(&port.name, &tensor)));
    let (mask, positions) = (optional(Role::AttentionMask), optional(Role::PositionIds));
    let tokens = match find(&Role::TokenIds) {
        Some((port, tensor)) => wrong.absorb(grid(&port.name, &tensor)),
        None => {
            let names: Vec<_> = interface.inputs.iter().filter(|p| p.role == Role::TokenIds).map(|p| p.name.as_str()).collect();
            wrong.push(bad(format!("the file lacks the token ids, '{}'", names.join(", "))));
            None
        }
    };
    let past = tokens.as_ref().and_then(|tokens| wrong.absorb(past(bundle, tokens.rows, &find)));
    let (Some(tokens), Some(past), false) = (tokens, past, wrong.has_errors()) else { return Err(wrong) };
    let windowed = bundle.manifest().plan.cache.iter().any(|layer| layer.window.is_some());
    let rows = rows(&tokens, mask.as_ref(), positions.as_ref(), past.length, interface.positions, windowed)?;

    let total = past.length + tokens.columns;
    let options = Options { slots: tokens.rows.max(1), capacity: total.max(1), ..options.clone() };
    let mut session = Session::new(bundle.clone(), &options)?;
    for (slot, row) in rows.iter().enumerate() {
        session.fill(slot, row.past.len(), |layer, part| past.entries(bundle, layer, part, slot, &row.past))?;
    }
    let chunks = rows.iter().enumerate().map(|(slot, row)| Chunk {
        slot,
        tokens: &row.tokens,
        positions: Some(&row.positions),
        want: Want::All,
    });
    let logits = session.step(&chunks.collect::<Vec<_>>())?;

    let mut outputs = Vec::new();
    for port in &interface.outputs {
        let (layer, part) = match &port.role {
            Role::Logits => {
                let vocab = bundle.manifest().model.vocab as usize;
                let mut data = vec![0.0; tokens.rows * tokens.columns * vocab];
                let places =
                    rows.iter().enumerate().flat_map(|(b, row)| row.columns.iter().map(move |c| b * tokens.columns + c));
                for (place, values) in places.zip(logits.rows()) {
                    data[place * vocab..][..vocab].copy_from_slice(values);
                }
                outputs.push(output(&port.name, vec![tokens.rows, tokens.columns, vocab], &data));
                continue;
            }
            Role::Passive(Some(input)) => {
                if let Ok(tensor) = file.tensor(input) {
                    outputs.push(Output {
                        name: &port.name,
                        dtype: tensor.dtype(),
                        shape: tensor.shape().into(),
                        data: tensor.data().into(),
                    });
                }
                continue;
            }
            Role::PresentKey(layer) => (*layer as usize, CachePart::Key),
            Role::PresentValue(layer) => (*layer as usize, CachePart::Value),
            _ => continue,
        };
        let (shape, data) = present(&session, &past, &rows, total, layer, part)?;
        outputs.push(output(&port.name, shape, &data));
    }
    let views = outputs.iter().map(|o| TensorView::new(o.dtype, o.shape.clone(), &o.data).map(|view| (o.name, view)));
    let bytes = views.collect::<std::result::Result<Vec<_>, _>>().and_then(|views| serialize(views, None));
    let mut warnings = Diagnostics::new();
    warnings.extend(strangers(&listed_inputs(header.metadata()), interface));
    Ok(Ran { outputs: bytes.map_err(|e| bad(format!("the outputs cannot be stored: {e}")))?, warnings })
}

/// The names that a file's header lists under `inputs`, as a JSON array. A file need not have such a list.
fn listed_inputs(header: &Option<HashMap<String, String>>) -> Vec<String> {
    let list = header.as_ref().and_then(|header| header.get("inputs"));
    list.and_then(|list| serde_json::from_str(list).ok()).unwrap_or_default()
}

/// A listed input that the graph does not have is left out, and the result may be another's.
fn strangers(listed: &[String], interface: &Interface) -> Option<Diagnostic> {
    let known: Vec<&str> = interface.inputs.iter().map(|port| port.name.as_str()).collect();
    let strange: Vec<&str> = listed.iter().map(String::as_str).filter(|name| !known.contains(name)).collect();
    if strange.is_empty() {
        return None;
    }
    let what = format!("the file's inputs '{}' are not inputs of the model and are left out", strange.join("', '"));
    Some(Diagnostic::warning(Code::BadInputs, what).help(format!("the model's inputs are '{}'", known.join("', '"))))
}

fn output<'a>(name: &'a str, shape: Vec<usize>, data: &[f32]) -> Output<'a> {
    Output { name, dtype: Dtype::F32, shape, data: data.iter().flat_map(|x| x.to_le_bytes()).collect() }
}

/// Heads and columns of one half of a layer.
fn extents(bundle: &Bundle, layer: usize, part: CachePart) -> [usize; 2] {
    let cache = &bundle.manifest().plan.cache[layer];
    [cache.kv_heads as usize, cache.columns(part) as usize]
}

/// Reads the caches of the file, which must agree on their length.
fn past<'a>(bundle: &Bundle, batch: usize, find: &dyn Fn(&Role) -> Option<(&'a Port, TensorView<'a>)>) -> Result<Past> {
    let mut wrong = Diagnostics::new();
    let mut length: Option<(usize, &str)> = None;
    let mut layers = Vec::new();
    for layer in 0..bundle.manifest().plan.cache.len() {
        let mut half = |part, role: Role| {
            let (port, tensor) = find(&role)?;
            let [heads, columns] = extents(bundle, layer, part);
            let shape = tensor.shape();
            let [b, h, entries, c] = *shape else {
                wrong.push(
                    bad(format!("the tensor has shape {shape:?} instead of [batch, heads, past, columns]"))
                        .at("input", &port.name),
                );
                return None;
            };
            if [b, h, c] != [batch, heads, columns] {
                wrong.push(
                    bad(format!("the tensor has shape {shape:?} instead of [{batch}, {heads}, past, {columns}]"))
                        .at("input", &port.name),
                );
            }
            let (expected, first) = *length.get_or_insert((entries, &port.name));
            if entries != expected {
                wrong.push(
                    bad(format!("the tensor holds {entries} tokens, and '{first}' holds {expected}")).at("input", &port.name),
                );
            }
            wrong.absorb(floats(&port.name, &tensor))
        };
        layers.push([half(CachePart::Key, Role::PastKey(layer as u32)), half(CachePart::Value, Role::PastValue(layer as u32))]);
    }
    let length = length.map_or(0, |(length, _)| length);
    if length > 0 && layers.iter().flatten().any(Option::is_none) && !wrong.has_errors() {
        wrong.push(bad(format!("the cache holds {length} tokens in some layers and is absent in others")));
    }
    wrong.into_result(Past { length, layers })
}

impl Past {
    /// Chosen columns of one batch row, as `[head][entry][column]`.
    fn entries(&self, bundle: &Bundle, layer: usize, part: CachePart, row: usize, chosen: &[usize]) -> Vec<f32> {
        let [heads, columns] = extents(bundle, layer, part);
        let Some(data) = &self.layers[layer][part as usize] else { return vec![] };
        let entry = |h: usize, p: usize| &data[((row * heads + h) * self.length + p) * columns..][..columns];
        (0..heads).flat_map(|h| chosen.iter().flat_map(move |p| entry(h, *p)).copied()).collect()
    }
}

/// The cache after the step as the graph would return it: the past as it came, the new entries in their columns, zeros at padding.
fn present(
    session: &Session,
    past: &Past,
    rows: &[Row],
    total: usize,
    layer: usize,
    part: CachePart,
) -> Result<(Vec<usize>, Vec<f32>)> {
    let bundle = session.bundle();
    let [heads, columns] = extents(bundle, layer, part);
    let mut data = vec![0.0; rows.len() * heads * total * columns];
    let all: Vec<usize> = (0..past.length).collect();
    for (slot, row) in rows.iter().enumerate() {
        let mut put = |h: usize, column: usize, values: &[f32]| {
            data[((slot * heads + h) * total + column) * columns..][..columns].copy_from_slice(values);
        };
        let came = past.entries(bundle, layer, part, slot, &all);
        for (n, values) in came.chunks_exact(columns).enumerate() {
            put(n / past.length, n % past.length, values);
        }
        let count = row.tokens.len();
        let new = session.read_cache(CacheSpan { layer, part, slot, first: row.past.len(), count })?;
        for (n, values) in new.chunks_exact(columns).enumerate() {
            put(n / count, row.present[n % count], values);
        }
    }
    Ok((vec![rows.len(), heads, total, columns], data))
}
