//! Attention whose keys and values come from a compressed latent, with a part of the keys that rotates and that all heads share
//! (DeepSeek-V2, section 2.1).

use super::attention::Scores;
use super::shared::Shared;
use super::{Latent, Layer, Write};
use crate::onnx::proto::Attribute;

impl Write<'_> {
    pub(super) fn latent(&mut self, name: &str, x: &str, a: &Latent, layer: &Layer, shared: &Shared) -> String {
        let m = self.model;
        let wide = a.still + a.turning;
        let q = match a.q_rank {
            None => self.linear(&format!("{name}.q_proj"), x, m.hidden, a.heads * wide, false),
            Some(rank) => {
                let latent = self.linear(&format!("{name}.q_a_proj"), x, m.hidden, rank, m.biases.qkv);
                let latent = self.norm(&format!("{name}.q_a_layernorm"), &latent, rank, a.eps);
                self.linear(&format!("{name}.q_b_proj"), &latent, rank, a.heads * wide, false)
            }
        };
        let both = self.linear(&format!("{name}.kv_a_proj_with_mqa"), x, m.hidden, a.kv_rank + a.turning, m.biases.qkv);
        let latent = self.columns(&both, 0, a.kv_rank as i64);
        let latent = self.norm(&format!("{name}.kv_a_layernorm"), &latent, a.kv_rank, a.eps);
        let kv = self.linear(&format!("{name}.kv_b_proj"), &latent, a.kv_rank, a.heads * (a.still + a.value), false);
        self.w.enter(name);
        let q = self.split_heads(&q, wide, shared);
        let q = self.heads_first(&q);
        let kv = self.split_heads(&kv, a.still + a.value, shared);
        let kv = self.heads_first(&kv);
        let (k, v) = (self.columns(&kv, 0, a.still as i64), self.columns(&kv, a.still as i64, (a.still + a.value) as i64));
        let turning = self.columns(&both, a.kv_rank as i64, (a.kv_rank + a.turning) as i64);
        let turning = self.split_heads(&turning, a.turning, shared);
        let mut key_part = self.heads_first(&turning);
        let (still, mut query_part) = (self.columns(&q, 0, a.still as i64), self.columns(&q, a.still as i64, wide as i64));
        if let Some(angles) = layer.rotation.map(|at| &shared.angles[at]) {
            [query_part, key_part] = [query_part, key_part].map(|x| self.rotate(&x, a.turning, a.turn, angles, shared));
        }
        let (heads, width) = (self.w.ints(&[a.heads as i64]), self.w.ints(&[a.turning as i64]));
        let shape = self.w.op("Concat", [&shared.batch, &heads, &shared.sequence, &width], [Attribute::int("axis", 0)]);
        let key_part = self.w.op("Expand", [&key_part, &shape], []);
        let q = self.w.op("Concat", [&still, &query_part], [Attribute::int("axis", -1)]);
        let k = self.w.op("Concat", [&k, &key_part], [Attribute::int("axis", -1)]);
        let scores = Scores { scale: a.scale, softcap: None, sinks: None, window: layer.window };
        let mixed = self.attend([&q, &k, &v], a.heads * a.value, &scores, shared);
        self.linear(&format!("{name}.o_proj"), &mixed, a.heads * a.value, m.hidden, m.biases.output)
    }
}
