//! `--bits-budget`: a few layers in 8 bits where that helps most.
//!
//! What enters: a model whose linear layers are in one pair codec, token sequences, and how many bits per weight they may take on average. What leaves: the layers that are stored in 8 bits
//! instead. Layers that read one value (query, key and value; gate and up) share one activation and are decided together, as are the experts of a layer. [`sensitivity`] measures what rounding
//! each of these groups alone does to the model's output; groups are then taken in the order of what they give per bit, as long as they fit. Nothing taken, all layers alike, is what that starts from.
//!
//! 3.5 bits are the same in all pair codecs, so the choice is between the one that was asked for and `q8`.

mod sensitivity;

use crate::size;
use crate::table::{Align, Table};
use q35_diag::{Code, Diagnostic, Result};
use q35_dialects::{Model, Param, ParamName};
use q35_format::{Codec, Group, PackedSpec};
use q35_graph::Observer;
use q35_target::Capabilities;
use std::collections::BTreeMap;

/// Codecs of layers that have one of their own.
pub type Codecs = BTreeMap<ParamName, Codec>;

/// What sensitive layers are stored in.
const FINE: Codec = Codec::Q8;

/// Layers that are decided together.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Layers {
    /// The names of their weights.
    pub params: Vec<String>,
    /// Numbers in them.
    pub weights: u64,
    /// Bytes as asked for, scales included.
    pub bytes: u64,
    /// Bytes in 8 bits.
    pub fine_bytes: u64,
    /// Mean Kullback-Leibler divergence, in nats, from the float model to the one in which these layers alone are rounded to nearest.
    pub divergence: f64,
    /// What they are stored in.
    pub codec: Codec,
}

/// Which layers get more bits.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Allocation {
    /// Bits per weight that were allowed.
    pub budget: f64,
    /// Bits per weight that are taken, scales included.
    pub bits: f64,
    /// By what is read, in order of execution.
    pub layers: Vec<Layers>,
}

/// Decides which layers of `model` get more bits.
///
/// # Errors
/// A budget below what the layers take anyway; a target without kernels for 8 bits; weights that cannot be packed.
pub fn allocate(
    model: &Model,
    sequences: &[Vec<u32>],
    budget: f64,
    target: &Capabilities,
    observer: &mut dyn Observer,
) -> Result<Allocation> {
    let refuse = |what: String, help: String| Diagnostic::error(Code::BadOption, what).at("option", "--bits-budget").help(help);
    if !target.codecs.contains(&FINE) {
        return Err(refuse(format!("the target has no kernels for codec {FINE}"), "leave it out".to_owned()).into());
    }
    let mut layers = sensitivity::groups(model)?;
    let least = bits(&layers);
    if budget < least {
        let what = format!("{budget} bits per weight are less than the {least:.3} that all layers alike take");
        return Err(refuse(what, format!("allow at least {:.2}", (least * 100.0).ceil() / 100.0)).into());
    }
    sensitivity::measure(model, sequences, &mut layers, observer)?;
    Ok(spend(layers, budget))
}

/// Takes layers in the order of what they give per byte, as long as they fit.
fn spend(mut layers: Vec<Layers>, budget: f64) -> Allocation {
    let gain = |layers: &Layers| layers.divergence / layers.fine_bytes.saturating_sub(layers.bytes).max(1) as f64;
    let mut order: Vec<usize> = (0..layers.len()).collect();
    // Equal gains in order of execution.
    order.sort_by(|a, b| gain(&layers[*b]).total_cmp(&gain(&layers[*a])).then(a.cmp(b)));
    for at in order {
        let was = layers[at].codec;
        layers[at].codec = FINE;
        if bits(&layers) > budget {
            layers[at].codec = was;
        }
    }
    Allocation { budget, bits: bits(&layers), layers }
}

/// Bits per weight over all layers.
fn bits(layers: &[Layers]) -> f64 {
    let bytes = |layers: &Layers| if layers.codec == FINE { layers.fine_bytes } else { layers.bytes };
    8.0 * layers.iter().map(bytes).sum::<u64>() as f64 / layers.iter().map(|layers| layers.weights).sum::<u64>().max(1) as f64
}

/// Bytes of a parameter in a codec.
fn bytes(param: &Param, codec: Codec, group: Group) -> Result<u64> {
    let (rows, cols) = (param.source.rows() as usize, param.source.cols() as usize);
    let spec = PackedSpec::new(rows, cols, codec, group);
    let spec = spec.map_err(|error| Diagnostic::error(Code::BadOption, error.to_string()).at("tensor", &param.origin))?;
    Ok(spec.total_bytes() as u64)
}

impl Allocation {
    /// The codecs of all its layers.
    pub fn codecs(&self) -> Codecs {
        self.layers.iter().flat_map(|layers| layers.params.iter().map(|name| (name.as_str().into(), layers.codec))).collect()
    }

    /// As a table.
    pub fn listing(&self) -> String {
        let mut table = Table::new(&[
            ("layers", Align::Left),
            ("codec", Align::Left),
            ("bytes", Align::Right),
            ("KL x 1000", Align::Right),
        ]);
        for layers in &self.layers {
            let bytes = if layers.codec == FINE { layers.fine_bytes } else { layers.bytes };
            table.row([
                layers.params.join(", "),
                layers.codec.to_string(),
                size::show(bytes),
                format!("{:.3}", 1000.0 * layers.divergence),
            ]);
        }
        format!("{:.3} of {} bits per weight; KL is what rounding these layers alone costs\n\n{table}", self.bits, self.budget)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(name: &str, weights: u64, divergence: f64) -> Layers {
        let params = vec![name.to_owned()];
        Layers { params, weights, bytes: weights / 2, fine_bytes: weights, divergence, codec: Codec::W8 }
    }

    fn fine(budget: f64) -> Vec<String> {
        let all = vec![layers("a", 1000, 2.0), layers("b", 4000, 6.0), layers("c", 1000, 1.0), layers("d", 1000, 2.0)];
        let found = spend(all, budget);
        assert!(found.bits <= budget);
        found.codecs().into_iter().filter(|(_, codec)| *codec == FINE).map(|(name, _)| name.to_string()).collect()
    }

    #[test]
    fn what_gives_most_per_bit_is_taken_while_it_fits() {
        assert_eq!(fine(4.0), [""; 0]);
        // One seventh of the weights takes four bits more.
        assert_eq!(fine(4.6), ["a"]);
        assert_eq!(fine(5.2), ["a", "d"]);
        // The large one does not fit, a smaller one that gives less does.
        assert_eq!(fine(5.8), ["a", "c", "d"]);
        assert_eq!(fine(8.0), ["a", "b", "c", "d"]);
    }
}
