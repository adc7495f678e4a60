//! The whole of a decoder: embedding, layers, head.

use super::shared::Shared;
use super::{Attention, Ffn, GatedUnit, Layer, Parts, Write};
use crate::onnx::proto::build::{FLOAT, INT64};
use crate::onnx::proto::{Attribute, ValueInfo};

impl Write<'_> {
    pub(super) fn model(&mut self) {
        let m = self.model;
        let ids = self.w.input(ValueInfo::tensor("input_ids", INT64, &["batch", "sequence"]));
        let padding = self.w.input(ValueInfo::tensor("attention_mask", INT64, &["batch", "sequence"]));
        let shared = self.shared(&ids, &padding);
        self.w.enter(m.names.embedding);
        let table = self.weight(&format!("{}.weight", m.names.embedding), &[m.vocab, m.hidden]);
        let x = self.w.op("Gather", [&table, &ids], []);
        let mut x = self.times(x, m.scalars.embedding);
        if m.embedding_norm {
            x = self.norm(m.names.last_norm, &x, m.hidden, m.eps);
        }
        for (at, layer) in m.layers.iter().enumerate() {
            let name = format!("{}.{at}", m.names.layers);
            if m.parts != Parts::InTurn {
                x = self.parallel(&name, &x, layer, &shared);
                continue;
            }
            x = self.part(&name, &x, m.norms.attention, |write, x| write.attention(&name, x, layer, &shared));
            x = self.part(&name, &x, m.norms.ffn, |write, x| write.ffn(&name, x, layer, &shared));
        }
        let x = self.norm(m.names.last_norm, &x, m.hidden, m.eps);
        self.w.enter(m.names.head);
        let logits = if m.tied {
            let transposed = self.w.op("Transpose", [&table], [Attribute::ints("perm", &[1, 0])]);
            self.w.op("MatMul", [&x, &transposed], [])
        } else {
            self.linear(m.names.head, &x, m.hidden, m.vocab, m.biases.head)
        };
        let logits = self.times(logits, m.scalars.logits);
        let logits = self.capped(logits, m.scalars.softcap);
        self.w.output(&logits, ValueInfo::tensor("logits", FLOAT, &["batch", "sequence", &m.vocab.to_string()]));
    }

    /// Both parts of a layer, which read the same residual stream and are added to it.
    fn parallel(&mut self, layer: &str, x: &str, at: &Layer, shared: &Shared) -> String {
        let m = self.model;
        let before =
            |write: &mut Self, norm: Option<&str>| norm.map(|norm| write.norm(&format!("{layer}.{norm}"), x, m.hidden, m.eps));
        let of_attention = before(self, m.norms.attention[0]).unwrap_or_else(|| x.to_owned());
        let of_ffn = before(self, m.norms.ffn[0]).unwrap_or_else(|| of_attention.clone());
        let mixed = self.attention(layer, &of_attention, at, shared);
        let unit = self.ffn(layer, &of_ffn, at, shared);
        self.w.enter(layer);
        let [mixed, unit] = [mixed, unit].map(|part| self.times(part, m.scalars.residual));
        let addends = if m.parts == Parts::Summed { [&mixed, &unit, x] } else { [x, &mixed, &unit] };
        let sum = self.w.op("Add", [addends[0], addends[1]], []);
        self.w.op("Add", [&sum, addends[2]], [])
    }

    /// A part of a layer between its norms, added to the residual stream.
    fn part(&mut self, layer: &str, x: &str, norms: [Option<&str>; 2], work: impl FnOnce(&mut Self, &str) -> String) -> String {
        let m = self.model;
        let normed = norms[0].map(|norm| self.norm(&format!("{layer}.{norm}"), x, m.hidden, m.eps));
        let y = work(self, normed.as_deref().unwrap_or(x));
        let y = match norms[1] {
            Some(norm) => self.norm(&format!("{layer}.{norm}"), &y, m.hidden, m.eps),
            None => y,
        };
        self.w.enter(layer);
        let y = self.times(y, m.scalars.residual);
        self.w.op("Add", [x, &y], [])
    }

    fn attention(&mut self, layer: &str, x: &str, at: &Layer, shared: &Shared) -> String {
        let module = format!("{layer}.{}", self.model.names.attention);
        match &self.model.attention {
            Attention::Heads(heads) => self.heads(&module, x, heads, at, shared),
            Attention::Latent(latent) => self.latent(&module, x, latent, at, shared),
        }
    }

    fn ffn(&mut self, layer: &str, x: &str, at: &Layer, shared: &Shared) -> String {
        match &at.ffn {
            Ffn::Dense(width) => {
                let (names, joined) = (&self.model.names, self.model.fused.gate_up);
                let unit =
                    if joined { GatedUnit::Joined(["gate_up_proj", names.gated[2]]) } else { GatedUnit::Apart(names.gated) };
                self.gated(&format!("{layer}.{}", names.ffn), x, *width, unit)
            }
            Ffn::Ungated(width) => self.ungated(&format!("{layer}.{}", self.model.names.ffn), x, *width),
            Ffn::Experts(experts) => self.experts(layer, x, experts, shared),
        }
    }
}
