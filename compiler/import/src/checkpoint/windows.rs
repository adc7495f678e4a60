//! Which layers attend in a window, and which rotate.

use super::config::Config;
use super::numbers::wrong;
use super::table::Window;
use q35_diag::{Code, Diagnostic};

/// The window of each layer.
pub(super) fn windows(config: &Config, rule: Window, layers: u64) -> Result<Vec<Option<u64>>, Diagnostic> {
    let switched_off = matches!(rule, Window::Switched) && !config.use_sliding_window.unwrap_or(false);
    let width = config.sliding_window.filter(|w| *w > 0 && !switched_off);
    if let Some(types) = &config.layer_types {
        if types.len() as u64 != layers {
            return Err(wrong(format!("layer_types has {} entries for {layers} layers", types.len())));
        }
        return types
            .iter()
            .map(|ty| match (ty.as_str(), width) {
                ("full_attention", _) => Ok(None),
                ("sliding_attention", Some(width)) => Ok(Some(width)),
                ("sliding_attention", None) if switched_off => Ok(None),
                ("sliding_attention", None) => {
                    Err(wrong("layer_types has a layer with a window, but sliding_window is not given".into()))
                }
                ("conv", _) => Err(Diagnostic::error(
                    Code::UnsupportedForm,
                    "layer_types has layers of type 'conv', but there is no op for short convolutions",
                )),
                (other, _) => Err(wrong(format!("layer type '{other}' is not known"))),
            })
            .collect();
    }
    let has_window = |layer: u64| match rule {
        Window::Never => Ok(false),
        Window::Always => Ok(true),
        Window::Switched => Ok(layer >= config.max_window_layers.unwrap_or(layers)),
        Window::AllBut(every) => {
            patterned(config, config.global_attn_every_n_layers.filter(|n| *n > 0).unwrap_or(every), layer)
        }
    };
    (0..layers).map(|layer| Ok(if has_window(layer)? { width } else { None })).collect()
}

/// Whether a layer has a window where all but every `n`-th have; a pattern may also be written as letters, `L` for such layers.
fn patterned(config: &Config, every: u64, layer: u64) -> Result<bool, Diagnostic> {
    match &config.sliding_window_pattern {
        None => Ok(!(layer + 1).is_multiple_of(every)),
        Some(pattern) => match (pattern.as_u64(), pattern.as_str()) {
            (Some(every), _) if every > 0 => Ok(!(layer + 1).is_multiple_of(every)),
            (_, Some(letters)) if !letters.is_empty() && letters.bytes().all(|b| b == b'L' || b == b'G') => {
                Ok(letters.as_bytes()[layer as usize % letters.len()] == b'L')
            }
            _ => Err(wrong(format!("sliding_window_pattern is {pattern}"))),
        },
    }
}

/// Which layers rotate, where some do not: 1 in `no_rope_layers` marks those that do.
pub(super) fn rotating(config: &Config, layers: usize) -> Result<Vec<bool>, Diagnostic> {
    match &config.no_rope_layers {
        Some(marks) if marks.len() == layers => Ok(marks.iter().map(|mark| *mark != 0).collect()),
        Some(marks) => Err(wrong(format!("no_rope_layers has {} entries for {layers} layers", marks.len()))),
        None => {
            let every = config.no_rope_layer_interval.unwrap_or(4).max(1);
            Ok((1..=layers as u64).map(|layer| !layer.is_multiple_of(every)).collect())
        }
    }
}
