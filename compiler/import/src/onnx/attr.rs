//! `AttributeProto` becomes an [`Attr`], all but subgraphs, which only the graph builder can make.

use super::proto::{Attribute, Graph, kind};
use super::tensor::Tensors;
use crate::report::Report;
use bytes::Bytes;
use q35_diag::{Code, Diagnostic};
use q35_graph::source::Attr;

/// The subgraph of an attribute that is one.
pub(super) fn subgraph(proto: &Attribute) -> Option<&Graph> {
    if proto.r#type == kind::GRAPH { proto.g.as_deref() } else { None }
}

/// Makes an attribute of node `node`. `None` if something is wrong with it, which is reported.
pub(super) fn read(proto: &Attribute, node: &str, tensors: &mut Tensors, report: &mut Report) -> Option<Attr> {
    let text = |bytes: &Bytes| {
        String::from_utf8(bytes.to_vec()).map_err(|_| {
            Diagnostic::error(Code::UnsupportedForm, format!("attribute '{}' holds bytes that are not text", proto.name))
                .at("node", node)
        })
    };
    let result = match proto.r#type {
        kind::FLOAT => Ok(Attr::Float(proto.f)),
        kind::INT => Ok(Attr::Int(proto.i)),
        kind::STRING => text(&proto.s).map(Attr::Str),
        kind::FLOATS => Ok(Attr::Floats(proto.floats.clone())),
        kind::INTS => Ok(Attr::Ints(proto.ints.clone())),
        kind::STRINGS => proto.strings.iter().map(text).collect::<Result<_, _>>().map(Attr::Strs),
        kind::TENSOR => {
            let Some(tensor) = &proto.t else { return report.take(Err(without_value(proto, node))) };
            let name = if tensor.name.is_empty() { format!("{node}.{}", proto.name) } else { tensor.name.clone() };
            return tensors.read(tensor, &name, report).map(Attr::Tensor);
        }
        kind::GRAPH => Err(without_value(proto, node)),
        other => Err(Diagnostic::error(
            Code::UnsupportedForm,
            format!("attribute '{}' has kind {other}, which is not supported", proto.name),
        )
        .at("node", node)),
    };
    report.take(result)
}

fn without_value(proto: &Attribute, node: &str) -> Diagnostic {
    Diagnostic::error(Code::BadGraph, format!("attribute '{}' has no value", proto.name)).at("node", node)
}
