//! Configurations of models that people deploy, as far as they say what is computed. The numbers are those of the published `config.json` files.

/// Name and `config.json` of each, from small to large.
pub const SHAPES: [(&str, &str); 7] = [
    ("tinyllama-1.1b", include_str!("shapes/tinyllama-1.1b.json")),
    ("llama-8b", include_str!("shapes/llama-8b.json")),
    ("qwen3-30b-a3b", include_str!("shapes/qwen3-30b-a3b.json")),
    ("mixtral-8x7b", include_str!("shapes/mixtral-8x7b.json")),
    ("llama-70b", include_str!("shapes/llama-70b.json")),
    ("llama-405b", include_str!("shapes/llama-405b.json")),
    ("deepseek-v3", include_str!("shapes/deepseek-v3.json")),
];

/// The configuration of that name.
pub fn shape(name: &str) -> Option<&'static str> {
    SHAPES.iter().find(|(known, _)| *known == name).map(|(_, config)| *config)
}
