//! Parameters: matrices and vectors of the model, found behind whatever views the exporter put around them.

use super::{HashMap, Raiser, Res};
use crate::sym::{Base, Id, Node};
use q35_dialects::{Param, ParamName, ParamRole};
use q35_graph::{Axis, Elements, Tensor, WeightView};

/// Vectors longer than this are not computed element by element.
const LONGEST_COMPUTED: u64 = 1 << 17;

impl Raiser<'_> {
    /// The tensor, offset and strides of an element of a constant that moves evenly with each of `vars`.
    pub(super) fn strided(&mut self, element: Id, vars: &[Id]) -> Option<(Elements, String, i64, Vec<i64>)> {
        let Node::Load(base, index) = self.eval.sym.node(element).clone() else { return None };
        let Base::Constant(name, tensor) = self.eval.sym.base(base).clone() else { return None };
        let mut flat = self.eval.sym.int(0);
        for (at, dim) in index.iter().zip(tensor.dims()) {
            flat = self.eval.sym.linear(&[(flat, *dim as f64), (*at, 1.0)], 0.0);
        }
        let (terms, offset) = self.eval.sym.terms(flat);
        let mut strides = vec![0i64; vars.len()];
        for (term, stride) in terms {
            strides[vars.iter().position(|v| *v == term)?] = stride as i64;
        }
        Some((tensor, name, offset as i64, strides))
    }

    /// A matrix `[rows, cols]` behind an element that is a function of a row and a column variable; its rows may lie in several tensors, one
    /// after the other.
    pub(super) fn matrix_view(&mut self, element: Id, row: Id, col: Id, rows: u64, cols: u64) -> Option<(WeightView, String)> {
        if let Some((tensor, name, offset, strides)) = self.strided(element, &[row, col]) {
            let [down, along] = [(rows, strides[0]), (cols, strides[1])].map(|(len, stride)| Axis { len, stride });
            return Some((WeightView::dense(tensor, offset, down, along)?, name));
        }
        let (breaks, _) = self.breaks(element, row, rows);
        let edges: Vec<u64> = [0].into_iter().chain(breaks).chain([rows]).collect();
        if edges.len() < 3 {
            return None;
        }
        let (mut parts, mut names) = (Vec::new(), Vec::new());
        for edge in edges.windows(2) {
            let count = self.eval.sym.number((edge[1] - edge[0]) as f64);
            let within = self.eval.sym.var("part", count);
            let at = self.eval.sym.plus(within, edge[0] as f64);
            let part = self.moved(element, row, at);
            let (tensor, name, offset, strides) = self.strided(part, &[within, col])?;
            let [down, along] = [(edge[1] - edge[0], strides[0]), (cols, strides[1])].map(|(len, stride)| Axis { len, stride });
            parts.push(WeightView::dense(tensor, offset, down, along)?);
            names.push(name);
        }
        Some((WeightView::joined(parts)?, names.join(" ")))
    }

    /// The parameter behind an element that is a function of `column` and of constants.
    pub(super) fn vector(&mut self, element: Id, column: Id, len: u64, what: &str) -> Res<ParamName> {
        let key = (element, column, len);
        if let Some(name) = self.vectors.get(&key) {
            return Ok(name.clone());
        }
        let (view, origin) = match self.strided(element, &[column]) {
            Some((tensor, name, offset, strides)) => {
                let view = WeightView::dense(tensor, offset, Axis { len: 1, stride: 0 }, Axis { len, stride: strides[0] });
                match view {
                    Some(view) => (view, name),
                    None => return self.fault(format!("reads {what} outside '{name}'")),
                }
            }
            None => {
                let numbers = self.numbers(element, column, len, what)?;
                (WeightView::vector(Tensor::from_f32(vec![len], &numbers)), self.origin_of(element))
            }
        };
        let name = self.param(Param::new(view, ParamRole::Vector, origin));
        self.vectors.insert(key, name.clone());
        Ok(name)
    }

    /// The values of an expression of `column` and constants.
    pub(super) fn numbers(&mut self, element: Id, column: Id, len: u64, what: &str) -> Res<Vec<f32>> {
        if len > LONGEST_COMPUTED {
            return self.fault(format!("computes {what} of {len} elements"));
        }
        (0..len)
            .map(|i| {
                let i = self.eval.sym.number(i as f64);
                let value = self.eval.sym.subst(element, &HashMap::from([(column, i)]));
                match self.eval.sym.as_number(value) {
                    Some(x) => Ok(x as f32),
                    None => {
                        let text = self.eval.sym.show(element);
                        self.fault(format!("has {what} that is not constant: {text}"))
                    }
                }
            })
            .collect()
    }

    /// Names of the constants in an expression.
    pub(super) fn origin_of(&self, element: Id) -> String {
        let mut names = std::collections::BTreeSet::new();
        self.eval.sym.visit(element, |_, node| {
            if let Node::Load(base, _) = node
                && let Base::Constant(name, _) = self.eval.sym.base(*base)
            {
                names.insert(name.clone());
            }
            true
        });
        if names.is_empty() { self.name() } else { names.into_iter().collect::<Vec<_>>().join(" ") }
    }

    /// Adds a parameter, or finds it: equal numbers in equal roles are one parameter, and a head that is the embedding is the same matrix.
    pub(super) fn param(&mut self, param: Param) -> ParamName {
        let identity = param.source.identity();
        let vector = param.role == ParamRole::Vector;
        let known = self.model.params.iter_mut().find(|(_, p)| {
            (p.role == ParamRole::Vector) == vector
                && p.source.identity() == identity
                && p.source.stored() == param.source.stored()
        });
        if let Some((name, _)) = known {
            return name.clone();
        }
        let name = ParamName::new(format!("p{:06}", self.model.params.len()));
        self.model.params.insert(name.clone(), param);
        name
    }
}
