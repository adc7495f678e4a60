//! Which layers have experts, and what they are.

use super::config::Config;
use super::numbers::{finite, size, wrong};
use super::table::{ExpertFacts, ExpertLayers, Normalize, SharedWidth};
use crate::decoder::{Choice, Clamp, ExpertLayout, Experts, Groups, Scoring, SharedExpert};
use q35_diag::{Code, Diagnostic};

/// Bounds and steepness of clamped units, where the configuration does not say.
const CLAMP: (f64, f64) = (7.0, 1.702);

/// Noise of a sparse mixer, where the configuration does not say.
const JITTER: f64 = 0.01;

/// More experts are not chosen one after the other.
const MOST_MIXED: u64 = 16;

/// Whether a layer has experts.
pub(super) fn has_experts(config: &Config, facts: &ExpertFacts, layer: u64) -> Result<bool, Diagnostic> {
    let every = |name: &str, n: Option<u64>| match n.unwrap_or(1) {
        0 => Err(wrong(format!("{name} is 0"))),
        n => Ok(n),
    };
    if let Some(types) = &config.mlp_layer_types {
        return match types.get(layer as usize).map(String::as_str) {
            Some("sparse") => Ok(true),
            Some("dense") => Ok(false),
            Some(other) => Err(wrong(format!("mlp_layer_types has '{other}', which is not known"))),
            None => Err(wrong(format!("mlp_layer_types has {} entries, which are too few", types.len()))),
        };
    }
    Ok(match facts.layers {
        ExpertLayers::All => true,
        ExpertLayers::Stepped => {
            let dense = config.mlp_only_layers.as_ref().is_some_and(|list| list.contains(&layer));
            !dense && (layer + 1).is_multiple_of(every("decoder_sparse_step", config.decoder_sparse_step)?)
        }
        ExpertLayers::AfterDense => {
            layer >= config.first_k_dense_replace.or(config.num_dense_layers).unwrap_or(0)
                && layer.is_multiple_of(every("moe_layer_freq", config.moe_layer_freq)?)
        }
        ExpertLayers::Between => {
            layer >= config.moe_layer_start_index.unwrap_or(0)
                && config.moe_layer_end_index.is_none_or(|end| layer <= end)
                && (layer + 1).is_multiple_of(every("moe_layer_interval", config.moe_layer_interval)?)
        }
    })
}

/// The experts of every layer that has some.
pub(super) fn experts(config: &Config, facts: &ExpertFacts) -> Result<Experts, Diagnostic> {
    let count =
        config.n_routed_experts.or(config.num_experts.map(|n| n.0)).or(config.num_local_experts).or(config.moe_num_experts);
    let count = size("the number of experts", count)?;
    let width = if facts.whole_width { config.intermediate_size } else { config.moe_intermediate_size.map(|n| n.0) };
    let width = size(if facts.whole_width { "intermediate_size" } else { "moe_intermediate_size" }, width)?;
    let chosen = size("num_experts_per_tok", config.num_experts_per_tok.or(config.moe_k).or(config.moe_topk.map(|n| n.0)))?;
    let groups = groups(config, facts, count)?;
    let reachable = groups.map_or(count, |g| g.top * (count / g.count));
    if chosen > reachable {
        return Err(wrong(format!("{chosen} experts are chosen for each token, but there are {reachable} to choose from")));
    }
    let scoring = scoring(config, facts)?;
    if scoring == Scoring::Mixer && chosen > MOST_MIXED {
        let what = format!("{chosen} experts are chosen one after the other for each token, {MOST_MIXED} are the most");
        return Err(Diagnostic::error(Code::UnsupportedForm, what));
    }
    Ok(Experts {
        module: facts.module,
        router: facts.router,
        count,
        width,
        choice: Choice {
            count: chosen,
            scoring,
            correction: facts.correction,
            groups,
            normalize: match facts.normalize {
                Normalize::Always => true,
                Normalize::Configured(default) => config.norm_topk_prob.unwrap_or(default),
            },
            eps: facts.eps,
            floor: finite("moe_norm_min", config.moe_norm_min.unwrap_or(facts.floor.into()))?,
            margin: margin(config, scoring)?,
            scale: finite("routed_scaling_factor", config.routed_scaling_factor.or(config.route_scale).unwrap_or(1.0))?,
        },
        layout: layout(config, facts),
        biases: facts.clamped,
        clamp: if facts.clamped { Some(clamp(config)?) } else { None },
        shared: shared(config, facts)?,
    })
}

/// How far below a chosen logit a sparse mixer's others share with it: twice the noise that it was trained with.
fn margin(config: &Config, scoring: Scoring) -> Result<f32, Diagnostic> {
    match scoring {
        Scoring::Mixer => match finite("router_jitter_noise", 2.0 * config.router_jitter_noise.unwrap_or(JITTER))? {
            margin if margin > 0.0 => Ok(margin),
            margin => Err(wrong(format!("router_jitter_noise is {}", margin / 2.0))),
        },
        Scoring::Softmax | Scoring::Sigmoid => Ok(0.0),
    }
}

/// How experts are stored: blocks of 4-bit floats lie along the inputs, other stacks along the outputs.
fn layout(config: &Config, facts: &ExpertFacts) -> ExpertLayout {
    let method = config.quantization_config.as_ref().and_then(|q| q.quant_method.as_deref());
    match (facts.layout, method) {
        (ExpertLayout::Woven(names), Some("mxfp4")) => ExpertLayout::WovenRows(names),
        (layout, _) => layout,
    }
}

/// The scoring; a configuration that names another than its family's is refused.
fn scoring(config: &Config, facts: &ExpertFacts) -> Result<Scoring, Diagnostic> {
    let named = match (config.scoring_func.as_deref(), facts.scoring) {
        (None, _) | (Some("softmax"), Scoring::Softmax) | (Some("sigmoid"), Scoring::Sigmoid) => None,
        (Some(other), _) => Some(("scoring_func", other)),
    };
    let method = match (config.topk_method.as_deref(), facts.correction.is_some()) {
        (None | Some("noaux_tc"), true) | (None | Some("greedy" | "group_limited_greedy"), false) => None,
        (Some(other), _) => Some(("topk_method", other)),
    };
    match named.or(method) {
        None => Ok(facts.scoring),
        Some((field, value)) => {
            let what = format!("{field} '{value}' is not supported for model type '{}'", config.model_type());
            Err(Diagnostic::error(Code::UnsupportedForm, what))
        }
    }
}

fn groups(config: &Config, facts: &ExpertFacts, experts: u64) -> Result<Option<Groups>, Diagnostic> {
    let Some(score) = facts.groups.filter(|_| config.topk_method.as_deref() != Some("greedy")) else { return Ok(None) };
    let (count, top) = (config.n_group.unwrap_or(1), config.topk_group.unwrap_or(1));
    if count <= 1 {
        return Ok(None);
    }
    // A group's worth may be the sum of its two best.
    if !experts.is_multiple_of(count) || !(1..=count).contains(&top) || experts / count < 2 {
        return Err(wrong(format!("{experts} experts in {count} groups, {top} of them chosen, are no routing")));
    }
    Ok(Some(Groups { count, top, score }))
}

fn clamp(config: &Config) -> Result<Clamp, Diagnostic> {
    let limit = finite("swiglu_limit", config.swiglu_limit.unwrap_or(CLAMP.0))?;
    let alpha = finite("swiglu_alpha", config.swiglu_alpha.unwrap_or(CLAMP.1))?;
    if limit > 0.0 && alpha > 0.0 { Ok(Clamp { limit, alpha }) } else { Err(wrong(format!("swiglu_limit is {limit}"))) }
}

fn shared(config: &Config, facts: &ExpertFacts) -> Result<Option<SharedExpert>, Diagnostic> {
    let Some(facts) = &facts.shared else { return Ok(None) };
    let width = match facts.width {
        SharedWidth::Own => {
            let own = config.shared_expert_intermediate_size.or(config.shared_intermediate_size);
            if facts.gate.is_none() && own == Some(0) {
                return Ok(None);
            }
            size("the width of the shared expert", own)?
        }
        SharedWidth::Dense => size("intermediate_size", config.intermediate_size)?,
        SharedWidth::Several => match config.n_shared_experts.or(config.num_shared_experts).or(config.moe_num_shared_experts) {
            None | Some(0) => return Ok(None),
            Some(n) => {
                let each = size("moe_intermediate_size", config.moe_intermediate_size.map(|n| n.0))?;
                size("the width of the shared experts", n.checked_mul(each))?
            }
        },
    };
    Ok(Some(SharedExpert { module: facts.module, width, unit: facts.unit, gate: facts.gate }))
}
