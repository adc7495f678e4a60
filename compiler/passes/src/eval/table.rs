//! The table of source ops: what each one means, element by element.

use super::elementwise::{self as ew, Map};
use super::{
    Eval, Res, creation as make, dequantize, indexing as ix, places, product, reduction as red, rotary, scatter, shapes,
    views as view,
};
use crate::sym::{Func, Id, Kind, Power};
use q35_graph::{NodeId, Value};

/// The standard operator set.
const STANDARD: &str = "";
/// ONNX Runtime's own.
const MICROSOFT: &str = "com.microsoft";

/// How the kind of an op's results follows.
enum KindRule {
    /// That of an operand.
    Of(usize),
    /// Always the same.
    Always(Kind),
    /// Computed.
    By(fn(&mut Eval, NodeId) -> Res<Kind>),
    /// One rule per result.
    Per(&'static [KindRule]),
}

/// How elements follow.
enum Rule {
    /// From the elements of at least this many operands at the same, broadcast index.
    Each(usize, Map),
    /// In some other way; the shape comes with it.
    Own(Shape, Element),
    /// Not at all: elements stand for themselves until somebody recognises the value.
    Opaque(Shape),
}

type Shape = fn(&mut Eval, NodeId) -> Res<Vec<Vec<Id>>>;
type Element = fn(&mut Eval, NodeId, u16, &[Id]) -> Res<Id>;

struct Row {
    domain: &'static str,
    op: &'static str,
    kind: KindRule,
    rule: Rule,
}

const fn row(op: &'static str, kind: KindRule, rule: Rule) -> Row {
    Row { domain: STANDARD, op, kind, rule }
}

const fn contrib(op: &'static str, kind: KindRule, rule: Rule) -> Row {
    Row { domain: MICROSOFT, op, kind, rule }
}

use KindRule::{Always, By, Of, Per};
use Rule::{Each, Opaque, Own};

const TRUTH: KindRule = Always(Kind::Truth);
const REAL: KindRule = Always(Kind::Real);
const INTEGER: KindRule = Always(Kind::Integer);

const TABLE: &[Row] = &[
    row("Add", Of(0), Each(2, |s, x| s.add(x[0], x[1]))),
    row("Sub", Of(0), Each(2, |s, x| s.sub(x[0], x[1]))),
    row("Mul", Of(0), Each(2, |s, x| s.mul(x[0], x[1]))),
    row("Div", Of(0), Own(shapes::broadcast_all, ew::div)),
    row("Mod", Of(0), Own(shapes::broadcast_all, ew::modulo)),
    row("Pow", Of(0), Own(shapes::broadcast_all, ew::pow)),
    row("Abs", Of(0), Each(1, |s, x| s.abs(x[0]))),
    row("Neg", Of(0), Each(1, |s, x| s.scaled(x[0], -1.0))),
    row("Sqrt", REAL, Each(1, |s, x| s.pow(x[0], Power::HALF))),
    row("Reciprocal", REAL, Each(1, |s, x| s.pow(x[0], Power::MINUS_ONE))),
    row("Exp", REAL, Each(1, |s, x| s.apply(Func::Exp, x[0]))),
    row("Log", REAL, Each(1, |s, x| s.apply(Func::Log, x[0]))),
    row("Sin", REAL, Each(1, |s, x| s.apply(Func::Sin, x[0]))),
    row("Cos", REAL, Each(1, |s, x| s.apply(Func::Cos, x[0]))),
    row("Tanh", REAL, Each(1, |s, x| s.apply(Func::Tanh, x[0]))),
    row("Erf", REAL, Each(1, |s, x| s.apply(Func::Erf, x[0]))),
    row("Sigmoid", REAL, Each(1, |s, x| s.apply(Func::Sigmoid, x[0]))),
    row("Floor", Of(0), Each(1, |s, x| s.apply(Func::Floor, x[0]))),
    row(
        "Relu",
        Of(0),
        Each(1, |s, x| {
            let zero = s.int(0);
            s.max(x[0], zero)
        }),
    ),
    row("Swish", REAL, Own(shapes::same_shape, ew::swish)),
    row("Gelu", REAL, Own(shapes::same_shape, ew::gelu)),
    row("Max", Of(0), Each(1, |s, x| x[1..].iter().fold(x[0], |m, y| s.max(m, *y)))),
    row("Min", Of(0), Each(1, |s, x| x[1..].iter().fold(x[0], |m, y| s.min(m, *y)))),
    row("Clip", Of(0), Own(shapes::same_shape, ew::clip)),
    row("Equal", TRUTH, Each(2, |s, x| s.equal(x[0], x[1]))),
    row("Less", TRUTH, Each(2, |s, x| s.less(x[0], x[1]))),
    row("LessOrEqual", TRUTH, Each(2, |s, x| s.less_equal(x[0], x[1]))),
    row("Greater", TRUTH, Each(2, |s, x| s.less(x[1], x[0]))),
    row("GreaterOrEqual", TRUTH, Each(2, |s, x| s.less_equal(x[1], x[0]))),
    row("And", TRUTH, Each(2, |s, x| s.and(x[0], x[1]))),
    row("Or", TRUTH, Each(2, |s, x| s.or(x[0], x[1]))),
    row("Not", TRUTH, Each(1, |s, x| s.not(x[0]))),
    // Only a row that sees no token at all makes a NaN, and such a row is padding: nobody reads it.
    row("IsNaN", TRUTH, Each(1, |s, _| s.truth(false))),
    row("Where", Of(1), Each(3, |s, x| s.select(x[0], x[1], x[2]))),
    row("Cast", By(ew::cast_kind), Own(shapes::same_shape, ew::cast)),
    row("CastLike", Of(1), Own(shapes::same_shape, ew::cast)),
    row("Identity", Of(0), Own(shapes::same_shape, view::identity)),
    row("Dropout", Of(0), Own(shapes::same_shape, view::identity)),
    row("Reshape", Of(0), Own(view::reshape_shape, view::reshape)),
    row("Flatten", Of(0), Own(view::flatten_shape, view::reshape)),
    row("Transpose", Of(0), Own(view::transpose_shape, view::transpose)),
    row("Squeeze", Of(0), Own(view::squeeze_shape, view::squeeze)),
    row("Unsqueeze", Of(0), Own(view::unsqueeze_shape, view::unsqueeze)),
    row("Expand", Of(0), Own(view::expand_shape, view::expand)),
    row("Tile", Of(0), Own(view::tile_shape, view::tile)),
    row("Slice", Of(0), Own(view::slice_shape, view::slice)),
    row("Split", Of(0), Own(view::split_shape, view::split)),
    row("Concat", Of(0), Own(view::concat_shape, view::concat)),
    row("Gather", Of(0), Own(ix::gather_shape, ix::gather)),
    row("GatherND", Of(0), Own(ix::gather_nd_shape, ix::gather_nd)),
    row("GatherElements", Of(0), Own(ix::gather_elements_shape, ix::gather_elements)),
    row("ScatterElements", Of(0), Own(shapes::same_shape, scatter::elements)),
    row("ScatterND", Of(0), Own(shapes::same_shape, scatter::slices)),
    row("TopK", Per(&[Of(0), INTEGER]), Own(places::top_k_shape, places::top_k)),
    row("ArgMax", INTEGER, Own(places::arg_max_shape, places::arg_max)),
    row("NonZero", INTEGER, Own(places::non_zero_shape, places::non_zero)),
    row("Shape", INTEGER, Own(make::shape_shape, make::shape)),
    row("Size", INTEGER, Own(make::size_shape, make::size)),
    row("Range", Of(0), Own(make::range_shape, make::range)),
    row("ConstantOfShape", By(make::fill_kind), Own(make::fill_shape, make::fill)),
    row("OneHot", Of(2), Own(make::one_hot_shape, make::one_hot)),
    row("Trilu", Of(0), Own(shapes::same_shape, make::trilu)),
    row("CumSum", Of(0), Own(shapes::same_shape, red::cumulate)),
    row("ReduceSum", Of(0), Own(red::reduce_shape, red::reduce_sum)),
    row("ReduceMean", Of(0), Own(red::reduce_shape, red::reduce_mean)),
    row("ReduceMax", Of(0), Own(red::reduce_shape, red::reduce_max)),
    row("ReduceLogSumExp", REAL, Own(red::reduce_shape, red::reduce_log_sum_exp)),
    row("RMSNormalization", Of(0), Own(shapes::same_shape, red::rms_norm)),
    row("SimplifiedLayerNormalization", Of(0), Own(shapes::same_shape, red::rms_norm)),
    contrib("SkipSimplifiedLayerNormalization", Of(0), Own(red::skip_norm_shape, red::skip_rms_norm)),
    row("LayerNormalization", Of(0), Own(red::norm_shape, red::layer_norm)),
    contrib("SkipLayerNormalization", Of(0), Own(red::skip_norm_shape, red::skip_layer_norm)),
    row("RotaryEmbedding", Of(0), Own(shapes::same_shape, rotary::standard)),
    contrib("RotaryEmbedding", Of(0), Own(shapes::same_shape, rotary::contrib)),
    contrib("Gelu", REAL, Own(shapes::same_shape, ew::gelu)),
    contrib("FastGelu", REAL, Own(shapes::same_shape, ew::gelu)),
    contrib("QuickGelu", REAL, Own(shapes::same_shape, ew::quick_gelu)),
    contrib("QuantizeLinear", INTEGER, Opaque(shapes::same_shape)),
    row("QuantizeLinear", INTEGER, Opaque(shapes::same_shape)),
    contrib("DequantizeLinear", Of(1), Own(shapes::same_shape, dequantize::element)),
    row("DequantizeLinear", Of(1), Own(shapes::same_shape, dequantize::element)),
    row("DynamicQuantizeLinear", Per(&[INTEGER, REAL, INTEGER]), Opaque(dequantize::dynamic_shape)),
    row("MatMul", Of(0), Own(shapes::product_shape, product::matmul)),
    row("MatMulInteger", INTEGER, Opaque(shapes::product_shape)),
    contrib("MatMulIntegerToFloat", REAL, Opaque(shapes::product_shape)),
    contrib("DynamicQuantizeMatMul", REAL, Opaque(shapes::product_shape)),
    row("Gemm", Of(0), Opaque(product::gemm_shape)),
    row("Softmax", Of(0), Opaque(shapes::same_shape)),
    row("Attention", Of(0), Opaque(product::attention_shape)),
    contrib("MultiHeadAttention", Of(0), Opaque(product::multi_head_shape)),
    contrib("FusedMatMul", Of(0), Opaque(product::fused_shape)),
    contrib("MatMulNBits", Of(0), Opaque(product::blocks_shape)),
    contrib("GatherBlockQuantized", Of(2), Opaque(product::gather_blocks_shape)),
    contrib("MoE", Of(0), Opaque(shapes::same_shape)),
    contrib("QMoE", Of(0), Opaque(shapes::same_shape)),
    contrib("GroupQueryAttention", Of(0), Opaque(product::group_query_shape)),
];

fn find(eval: &Eval, node: NodeId) -> Res<&'static Row> {
    let call = eval.call(node)?;
    match TABLE.iter().find(|r| r.domain == call.domain && r.op == call.op) {
        Some(row) => Ok(row),
        None => eval.fault(node, "is not supported"),
    }
}

/// Whether an op has a row.
pub fn is_known(domain: &str, op: &str) -> bool {
    TABLE.iter().any(|r| r.domain == domain && r.op == op)
}

pub(super) fn kind(eval: &mut Eval, value: Value) -> Res<Kind> {
    rule_kind(eval, value, &find(eval, value.node)?.kind)
}

fn rule_kind(eval: &mut Eval, value: Value, rule: &KindRule) -> Res<Kind> {
    match rule {
        Of(at) => {
            let operand = eval.operand(value.node, *at)?;
            eval.kind(operand)
        }
        Always(kind) => Ok(*kind),
        By(kind) => kind(eval, value.node),
        Per(rules) => match rules.get(value.result as usize) {
            Some(rule) => rule_kind(eval, value, rule),
            None => eval.fault(value.node, format!("has no result {}", value.result)),
        },
    }
}

pub(super) fn shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    match find(eval, node)?.rule {
        Each(..) => shapes::broadcast_all(eval, node),
        Own(shape, _) | Opaque(shape) => shape(eval, node),
    }
}

pub(super) fn element(eval: &mut Eval, value: Value, index: &[Id]) -> Res<Id> {
    match find(eval, value.node)?.rule {
        Each(operands, map) => eval.map(value.node, index, operands, map),
        Own(_, element) => element(eval, value.node, value.result, index),
        Opaque(_) => eval.opaque(value, index),
    }
}
