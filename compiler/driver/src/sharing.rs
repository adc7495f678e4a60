//! Which stored matrices several ops read: a head that is the embedding's table, layers that share their weights.
//!
//! What enters: a model whose parameters are found. What leaves: names and shapes in the model's own words, for a person who must know what one
//! matrix's rounding touches, and what is read more than once per token though it is stored once. Vectors are not looked at: norms' weights and
//! frequencies are equal in many a model, and weigh nothing.

use q35_dialects::q35::Op;
use q35_dialects::{Model, ParamName, ParamRole};
use q35_graph::Identity;

/// A matrix of the model file that more than one op reads.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Shared {
    /// Its name in the model.
    pub name: String,
    /// Output channels.
    pub rows: u64,
    /// Input columns.
    pub cols: u64,
    /// How often it is stored: more than once where its readers need it in different forms.
    pub stored: usize,
    /// The nodes that read it, by their names in the model.
    pub readers: Vec<String>,
    /// Whether a table of embeddings and the head are among them.
    pub tied: bool,
}

/// Every shared matrix, in the order in which the model first reads it.
pub fn shared(model: &Model) -> Vec<Shared> {
    let mut matrices: Vec<Matrix> = Vec::new();
    let logits = model.logits().map(|value| value.node);
    for id in model.graph.topological().unwrap_or_default() {
        let node = model.graph.node(id);
        for name in node.op.params() {
            let Some(param) = model.params.get(&name).filter(|param| param.role != ParamRole::Vector) else { continue };
            let identity = param.source.identity();
            let known = matrices.iter().position(|matrix| matrix.identity == identity);
            let at = known.unwrap_or_else(|| {
                let (rows, cols) = (param.source.rows(), param.source.cols());
                let shared = Shared { name: param.origin.clone(), rows, cols, stored: 0, readers: Vec::new(), tied: false };
                matrices.push(Matrix { identity, params: Vec::new(), table: false, head: false, shared });
                matrices.len() - 1
            });
            let matrix = &mut matrices[at];
            matrix.shared.readers.push(node.name.clone());
            matrix.table |= matches!(node.op, Op::Embed(_));
            matrix.head |= logits == Some(id);
            if !matrix.params.contains(&name) {
                matrix.params.push(name);
            }
        }
    }
    let several = matrices.into_iter().filter(|matrix| matrix.shared.readers.len() > 1);
    several.map(|m| Shared { stored: m.params.len(), tied: m.table && m.head, ..m.shared }).collect()
}

struct Matrix {
    identity: Identity,
    params: Vec<ParamName>,
    table: bool,
    head: bool,
    shared: Shared,
}
