//! The original library's names for parameters, by model type.
//!
//! Parameters are named by what they do in the model, whatever the file called them, so that one table serves every export of a model.

use q35_diag::{Code, Diagnostic, Result};
use q35_dialects::q35::{Op, RopeStyle};
use q35_dialects::{Model, Param, ParamName, ParamRole};
use q35_import::Sidecars;
use serde_json::Value;
use std::ops::Range;

/// What lies outside the layers: our names and the library's.
const OUTSIDE: [(&str, &str); 3] = [("embed", "model.embed_tokens"), ("norm", "model.norm"), ("head", "lm_head")];

/// What lies in a layer, for every model type here.
const LAYER: [(&str, &str); 8] = [
    ("attention.norm", "input_layernorm"),
    ("attention.q", "self_attn.q_proj"),
    ("attention.k", "self_attn.k_proj"),
    ("attention.v", "self_attn.v_proj"),
    ("attention.out", "self_attn.o_proj"),
    ("attention.q_norm", "self_attn.q_norm"),
    ("attention.k_norm", "self_attn.k_norm"),
    ("mlp.norm", "post_attention_layernorm"),
];

const DENSE: &[(&str, &str)] = &[("mlp.gate", "mlp.gate_proj"), ("mlp.up", "mlp.up_proj"), ("mlp.down", "mlp.down_proj")];

/// `*` is the expert.
const MIXTRAL: &[(&str, &str)] = &[
    ("mlp.router", "block_sparse_moe.gate"),
    ("experts.gate", "block_sparse_moe.experts.*.w1"),
    ("experts.up", "block_sparse_moe.experts.*.w3"),
    ("experts.down", "block_sparse_moe.experts.*.w2"),
];

/// Model types and what their layers have besides [`LAYER`].
const TYPES: [(&str, &[(&str, &str)]); 5] =
    [("llama", DENSE), ("mistral", DENSE), ("qwen2", DENSE), ("qwen3", DENSE), ("mixtral", MIXTRAL)];

/// The tables that apply to a model, and its configuration.
pub(super) struct Names {
    kind: String,
    own: &'static [(&'static str, &'static str)],
    config: Value,
}

/// A tensor of the checkpoint: its name, its rows of the parameter, its shape.
pub(super) struct Part {
    pub(super) tensor: String,
    pub(super) rows: Range<u64>,
    pub(super) shape: Vec<usize>,
}

fn cannot(what: String) -> Diagnostic {
    Diagnostic::error(Code::CannotExport, what)
}

impl Names {
    /// For a model whose configuration lies beside it.
    ///
    /// # Errors
    /// [`Code::CannotExport`] for a model without a configuration, of another type, or whose heads are laid out in another way than the library's.
    pub(super) fn new(model: &Model, sidecars: &Sidecars) -> Result<Self> {
        let path = sidecars.config.as_deref().ok_or_else(|| {
            cannot("the model has no config.json, and a checkpoint is not complete without one".to_owned())
                .help("put the config.json of the original checkpoint beside the model")
        })?;
        let text = std::fs::read_to_string(path).map_err(|e| {
            Diagnostic::error(Code::CannotRead, format!("the file cannot be read: {e}")).at("file", path.display())
        })?;
        let config: Value = serde_json::from_str(&text)
            .map_err(|e| Diagnostic::error(Code::BadConfig, format!("the file is no JSON: {e}")).at("file", path.display()))?;
        let kind = config["model_type"].as_str().unwrap_or_default().to_owned();
        let Some((_, own)) = TYPES.iter().find(|(name, _)| *name == kind) else {
            let known = TYPES.map(|(name, _)| name).join(", ");
            return Err(cannot(format!("models of type '{kind}' have no form as a checkpoint here; {known} have"))
                .at("file", path.display())
                .into());
        };
        let interleaved = |op: &Op| matches!(op, Op::Rope(rope) if rope.style == RopeStyle::Interleaved);
        if model.graph.ids().any(|id| interleaved(&model.graph.node(id).op)) {
            return Err(
                cannot("its heads rotate neighbouring columns, those of the checkpoint their two halves".to_owned()).into()
            );
        }
        let mut names = Self { kind, own, config };
        let separate = model.params.values().any(|param| param.role == ParamRole::Head)
            && model.params.values().any(|param| param.role == ParamRole::Embedding);
        let Value::Object(fields) = &mut names.config else { unreachable!("it has a model type") };
        // A head of its own is rounded apart from the table that it once was.
        if separate {
            fields.insert("tie_word_embeddings".to_owned(), false.into());
        }
        fields.remove("torch_dtype");
        fields.insert("dtype".to_owned(), "float32".into());
        Ok(names)
    }

    /// `config.json`, for numbers in f32.
    pub(super) fn config(&self) -> String {
        format!("{:#}\n", self.config)
    }

    /// The tensors that a parameter becomes: one, one per expert, or none where the library computes it.
    ///
    /// # Errors
    /// [`Code::CannotExport`] for a parameter that the library's model does not have.
    pub(super) fn parts(&self, name: &ParamName, param: &Param) -> Result<Vec<Part>> {
        let text = name.to_string();
        if text.starts_with("rotary.") {
            return Ok(Vec::new());
        }
        let missing = || {
            let what = format!("@{name} has no place in a checkpoint of type '{}'", self.kind);
            cannot(what).at("tensor", &param.origin)
        };
        let tensor = self.tensor(&text).ok_or_else(missing)?;
        let (rows, cols) = (param.source.rows(), param.source.cols() as usize);
        let vector = param.role == ParamRole::Vector;
        let shape = |rows: u64| if vector { vec![cols] } else { vec![rows as usize, cols] };
        let Some((before, after)) = tensor.split_once('*') else {
            return Ok(vec![Part { tensor, rows: 0..rows, shape: shape(rows) }]);
        };
        let experts = param.source.matrices();
        let each = rows / experts;
        let part = |expert| Part {
            tensor: format!("{before}{expert}{after}"),
            rows: expert * each..(expert + 1) * each,
            shape: shape(each),
        };
        Ok((0..experts).map(part).collect())
    }

    /// The library's name, with `*` for an expert.
    fn tensor(&self, name: &str) -> Option<String> {
        let (stem, kind) = name.rsplit_once('.')?;
        let find = |tables: &[&[(&str, &str)]], stem: &str| {
            tables.iter().flat_map(|table| table.iter()).find(|(ours, _)| *ours == stem).map(|(_, theirs)| (*theirs).to_owned())
        };
        let found = match stem.strip_prefix("layers.").and_then(|rest| rest.split_once('.')) {
            Some((layer, stem)) => format!("model.layers.{layer}.{}", find(&[&LAYER, self.own], stem)?),
            None => find(&[&OUTSIDE], stem)?,
        };
        Some(format!("{found}.{kind}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(kind: &str) -> Names {
        let own = TYPES.iter().find(|(name, _)| *name == kind).unwrap().1;
        Names { kind: kind.to_owned(), own, config: Value::Null }
    }

    #[test]
    fn names_follow_what_parameters_do() {
        let llama = names("llama");
        for (ours, theirs) in [
            ("embed.weight", "model.embed_tokens.weight"),
            ("norm.weight", "model.norm.weight"),
            ("layers.12.attention.q.bias", "model.layers.12.self_attn.q_proj.bias"),
            ("layers.0.mlp.down.weight", "model.layers.0.mlp.down_proj.weight"),
        ] {
            assert_eq!(llama.tensor(ours).as_deref(), Some(theirs));
        }
        assert_eq!(llama.tensor("layers.0.mlp.router.weight"), None);
        let expert = names("mixtral").tensor("layers.1.experts.up.weight");
        assert_eq!(expert.as_deref(), Some("model.layers.1.block_sparse_moe.experts.*.w3.weight"));
    }
}
