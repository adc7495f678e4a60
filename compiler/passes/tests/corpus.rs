//! What the graphs of the corpus raise to, against the configurations of the models they were exported from.
#![allow(clippy::unwrap_used)] // a test may panic

#[allow(dead_code)]
mod common;

use common::{Case, cases, corpus, is_dense};
use q35_dialects::q35::{GroupScore, Op, RopeStyle, Route, Scoring};
use q35_dialects::{Model, ParamRole, Ty};
use q35_passes::raise::{Options, raise};
use serde_json::Value;
use std::collections::BTreeMap;

fn raised(case: &Case) -> q35_diag::Result<Model> {
    let imported = q35_import::open(&case.graph)?;
    raise(&imported.graph, &Options { name: case.name.clone(), context: None })
}

fn config(case: &Case) -> Value {
    serde_json::from_slice(&std::fs::read(case.folder.join("hf/config.json")).unwrap()).unwrap()
}

/// The ops without names and weights, one per line.
fn ops(model: &Model) -> String {
    let text = q35_dialects::print::graph(&model.graph);
    text.lines().map(|line| line.split(" '").next().unwrap_or_default().to_owned() + "\n").collect()
}

#[test]
fn dense_graphs_follow_their_configuration() {
    let Some(folder) = corpus() else { return };
    for case in cases(&folder).iter().filter(|c| is_dense(&c.name)) {
        let (name, config) = (&case.name, config(case));
        let model = raised(case).unwrap_or_else(|errors| panic!("{name}: {errors}"));
        let number = |key: &str| config[key].as_u64();
        let layers = number("num_hidden_layers").unwrap();
        let heads = number("num_attention_heads").unwrap();
        let kv_heads = number("num_key_value_heads").unwrap_or(heads);
        let hidden = number("hidden_size").unwrap();
        let head_dim = number("head_dim").unwrap_or(hidden / heads);
        let family = config["model_type"].as_str().unwrap();
        // The builder of this route drops the window.
        let window = number("sliding_window").filter(|_| family == "mistral" && !name.contains("genai"));
        let qk_norms = if family == "qwen3" { 2 } else { 0 };
        let biases = match family {
            "qwen2" => 3,
            _ if config["attention_bias"].as_bool() == Some(true) => {
                4 + if config["mlp_bias"].as_bool() == Some(true) { 3 } else { 0 }
            }
            _ => 0,
        };
        let tied = config["tie_word_embeddings"].as_bool() == Some(true);

        assert_eq!((model.facts.layers, model.facts.hidden), (layers, hidden), "{name}");
        assert_eq!(Some(model.facts.vocab), number("vocab_size"), "{name}");
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        let mut with_bias = 0;
        for id in model.graph.ids() {
            let op = &model.graph.node(id).op;
            *counts.entry(op.name()).or_default() += 1;
            match op {
                Op::Attention(a) => {
                    assert_eq!((a.heads, a.window, a.softcap, &a.sinks), (heads, window, None, &None), "{name}");
                    assert!((f64::from(a.scale) * (head_dim as f64).sqrt() - 1.0).abs() < 1e-3, "{name}: scale {}", a.scale);
                }
                Op::Append(a) => assert_eq!(a.kv_heads, kv_heads, "{name}"),
                Op::Rope(r) => assert_eq!((r.head_dim, r.style), (head_dim, RopeStyle::Halves), "{name}"),
                Op::Rotary(r) => assert_eq!(r.scale, 1.0, "{name}"),
                Op::RmsNorm(n) => {
                    assert!(n.group == hidden || qk_norms > 0 && n.group == head_dim, "{name}: groups of {}", n.group);
                    assert_eq!(f64::from(n.eps), f64::from(config["rms_norm_eps"].as_f64().unwrap() as f32), "{name}");
                }
                Op::Linear(l) => with_bias += u64::from(l.bias.is_some()),
                _ => {}
            }
        }
        let wanted = BTreeMap::from([
            ("add", 2 * layers),
            ("append", layers),
            ("attention", layers),
            ("embed", 1),
            ("glu", layers),
            ("linear", 7 * layers + 1),
            ("positions", 1),
            ("rms_norm", (2 + qk_norms) * layers + 1),
            ("rope", 2 * layers),
            ("rotary", 1),
            ("select", 2),
            ("tokens", 1),
        ]);
        assert_eq!(counts, wanted, "{name}");
        assert_eq!(with_bias, biases * layers, "{name}");
        let tables = model.params.values().filter(|p| matches!(p.role, ParamRole::Embedding | ParamRole::Head)).count();
        assert!(tables == if tied { 1 } else { 2 } || name.contains("--ts"), "{name}: {tables} tables");
    }
}

#[test]
fn one_model_by_two_exporters_is_one_model() {
    let Some(folder) = corpus() else { return };
    let mut by_config: BTreeMap<String, (String, String)> = BTreeMap::new();
    for case in cases(&folder) {
        // Scales that were rounded to f16 differ in their last digits.
        let text = ops(&raised(&case).unwrap_or_else(|errors| panic!("{}: {errors}", case.name)));
        let text = text.replace("0.1767767}", "0.17677669}").replace("1e-05", "1e-5");
        let config = case.name.split("--").next().unwrap().split('/').next().unwrap().to_owned();
        match by_config.get(&config) {
            Some((first, wanted)) => assert_eq!(&text, wanted, "{} and {first}", case.name),
            None => drop(by_config.insert(config, (case.name.clone(), text))),
        }
    }
}

#[test]
fn checkpoints_raise_to_the_same_ops_as_their_exports() {
    let Some(folder) = corpus() else { return };
    for case in cases(&folder).iter().filter(|c| is_dense(&c.name)) {
        let name = &case.name;
        let imported = q35_import::open(&case.folder.join("hf")).unwrap_or_else(|errors| panic!("{name}: {errors}"));
        let options = Options { name: name.clone(), context: None };
        let checkpoint = raise(&imported.graph, &options).unwrap_or_else(|errors| panic!("{name}: {errors}"));
        let (a, b) = (raised(case).unwrap(), checkpoint);
        let names = |m: &Model| m.params.keys().map(|k| k.to_string()).collect::<Vec<_>>();
        assert_eq!(names(&a), names(&b), "{name}");
        assert_eq!(ops(&a).lines().count(), ops(&b).lines().count(), "{name}");
    }
}

#[test]
fn experts_follow_their_configuration() {
    let Some(folder) = corpus() else { return };
    for case in cases(&folder).iter().filter(|c| !is_dense(&c.name)) {
        let (name, config) = (&case.name, config(case));
        let model = raised(case).unwrap_or_else(|errors| panic!("{name}: {errors}"));
        let number = |keys: &[&str]| keys.iter().find_map(|key| config[*key].as_u64());
        let experts = number(&["num_local_experts", "num_experts", "n_routed_experts"]).unwrap();
        let choices = number(&["num_experts_per_tok"]).unwrap() as u32;
        let leading = number(&["first_k_dense_replace", "num_dense_layers"]).unwrap_or(0);
        let dense = config["mlp_only_layers"].as_array().map_or(0, Vec::len) as u64 + leading;
        let layers = number(&["num_hidden_layers"]).unwrap();
        let routed = match number(&["decoder_sparse_step"]) {
            Some(step) => layers / step - dense,
            None => layers - dense,
        };
        let normalize = config["norm_topk_prob"].as_bool().unwrap_or(true);
        let width = number(&["moe_intermediate_size", "intermediate_size"]).unwrap();
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for id in model.graph.ids() {
            let node = model.graph.node(id);
            *counts.entry(node.op.name()).or_default() += 1;
            if let Op::Route(route) = &node.op {
                let wanted = Route { normalize, ..Route::plain(Scoring::Softmax, choices) };
                let wanted = match config["model_type"].as_str().unwrap() {
                    "lfm2_moe" => {
                        Route { scoring: Scoring::Sigmoid, eps: 1e-6, correction: route.correction.clone(), ..wanted }
                    }
                    "deepseek_v3" => Route {
                        scoring: Scoring::Sigmoid,
                        correction: route.correction.clone(),
                        groups: number(&["n_group"]).unwrap(),
                        top_groups: number(&["topk_group"]).unwrap(),
                        group_score: GroupScore::Two,
                        eps: route.eps,
                        scale: config["routed_scaling_factor"].as_f64().unwrap() as f32,
                        ..wanted
                    },
                    _ => wanted,
                };
                assert_eq!(route, &wanted, "{name}");
                assert_eq!(route.correction.is_some(), wanted.scoring == Scoring::Sigmoid, "{name}");
                let Ty::Routing { experts: found, .. } = node.results[0] else { panic!("{name}: {}", node.results[0]) };
                assert_eq!(found, experts, "{name}");
            }
            if let Op::ExpertLinear(layer) = &node.op {
                let param = &model.params[&layer.weight];
                let inputs = [model.facts.hidden, width].iter().position(|w| *w == param.source.cols());
                let outputs = [width, model.facts.hidden][inputs.unwrap()];
                assert_eq!((param.source.rows(), param.source.matrices()), (experts * outputs, experts), "{name}");
            }
        }
        let of = |op: &str| counts.get(op).copied().unwrap_or(0);
        assert_eq!([of("route"), of("expert_linear"), of("combine")], [routed, 3 * routed, routed], "{name}");
        let routers = model.params.values().filter(|p| p.role == ParamRole::Router).count() as u64;
        assert_eq!(routers, routed, "{name}");
    }
}

#[test]
fn raising_twice_gives_the_same_text() {
    let Some(folder) = corpus() else { return };
    for case in cases(&folder).iter().filter(|c| is_dense(&c.name)).take(4) {
        let text = || q35_dialects::print::model(&raised(case).unwrap());
        assert_eq!(text(), text());
    }
}
