//! What all layers read: masks, cosines and sines.

use super::Write;
use crate::onnx::proto::build::{BOOL, FLOAT};
use crate::onnx::proto::{Attribute, Tensor};

/// What a mask adds to the score of a key that is not seen.
const UNSEEN: f32 = f32::MIN;

/// Values that all layers read.
pub(super) struct Shared {
    /// One for each rotation.
    pub(super) angles: Vec<Angles>,
    /// Broadcast to `[batch, heads, sequence, sequence]`; one for each different window.
    masks: Vec<(Option<u64>, String)>,
    /// `int64[1]`
    pub(super) batch: String,
    pub(super) sequence: String,
}

/// Cosines and sines, `[1, 1, sequence, pairs]`.
pub(super) struct Angles {
    pub(super) cos: String,
    pub(super) sin: String,
    pub(super) pairs: i64,
}

impl Shared {
    pub(super) fn mask(&self, window: Option<u64>) -> &str {
        self.masks.iter().find(|(w, _)| *w == window).map_or("", |(_, mask)| mask)
    }
}

impl Write<'_> {
    pub(super) fn shared(&mut self, ids: &str, padding: &str) -> Shared {
        let w = &mut self.w;
        w.enter("model");
        let batch = w.op("Shape", [ids], [Attribute::int("start", 0), Attribute::int("end", 1)]);
        let sequence = w.op("Shape", [ids], [Attribute::int("start", 1), Attribute::int("end", 2)]);
        let length = w.op("Squeeze", [&sequence], []);
        let (zero, one) = (w.int(0), w.int(1));
        let positions = w.op("Range", [&zero, &length, &one], []);
        let (to_keys, to_queries, to_padding) = (w.ints(&[0, 1, 2]), w.ints(&[0, 1, 3]), w.ints(&[1, 2]));
        let keys = w.op("Unsqueeze", [&positions, &to_keys], []);
        let queries = w.op("Unsqueeze", [&positions, &to_queries], []);
        let real = w.op("Cast", [padding], [Attribute::int("to", BOOL.into())]);
        let real = w.op("Unsqueeze", [&real, &to_padding], []);
        let causal = w.op("LessOrEqual", [&keys, &queries], []);
        let seen = w.op("And", [&causal, &real], []);
        let (nothing, unseen) = (w.number(0.0), w.number(UNSEEN));
        let mut masks: Vec<(Option<u64>, String)> = Vec::new();
        for layer in &self.model.layers {
            if masks.iter().any(|(other, _)| *other == layer.window) {
                continue;
            }
            let seen = match layer.window {
                None => seen.clone(),
                Some(width) => {
                    let width = w.int(width as i64);
                    let before = w.op("Sub", [&queries, &width], []);
                    let near = w.op("Greater", [&keys, &before], []);
                    w.op("And", [&seen, &near], [])
                }
            };
            masks.push((layer.window, w.op("Where", [&seen, &nothing, &unseen], [])));
        }
        let angles = (0..self.model.rotations.len()).map(|at| self.angles(at, &positions)).collect();
        Shared { angles, masks, batch, sequence }
    }

    fn angles(&mut self, at: usize, positions: &str) -> Angles {
        let rotation = &self.model.rotations[at];
        let module = if at == 0 { "model.rotary_emb".to_owned() } else { format!("model.rotary_emb_{at}") };
        let w = &mut self.w;
        w.enter(&module);
        let pairs = rotation.inv_freq.len() as i64;
        let frequencies = w.tensor(Tensor::f32s(&format!("{module}.inv_freq"), &[pairs], &rotation.inv_freq));
        let to_angles = w.ints(&[0, 1, 3]);
        let positions = w.op("Unsqueeze", [positions, &to_angles], []);
        let positions = w.op("Cast", [&positions], [Attribute::int("to", FLOAT.into())]);
        let angles = w.op("Mul", [&positions, &frequencies], []);
        let [cos, sin] = ["Cos", "Sin"].map(|op| {
            let value = w.op(op, [&angles], []);
            if rotation.scale == 1.0 {
                return value;
            }
            let scale = w.number(rotation.scale);
            w.op("Mul", [&value, &scale], [])
        });
        Angles { cos, sin, pairs }
    }
}
