//! The table of ops as a whole.

use super::*;

/// One op of each row, with every optional attribute present.
pub(crate) fn samples() -> Vec<Op> {
    let name = |text: &str| ParamName::from(text);
    vec![
        Tokens {}.into(),
        Positions {}.into(),
        Embed { table: name("model.embed \"quoted\"") }.into(),
        RmsNorm { weight: Some(name("w")), eps: 1e-5, group: 64 }.into(),
        LayerNorm { weight: Some(name("w")), bias: Some(name("b")), eps: 1e-5, group: 64 }.into(),
        Hadamard { block: 64, seed: u64::MAX - 1, inverse: true }.into(),
        Quantize {}.into(),
        Linear { weight: name("w"), bias: Some(name("b")) }.into(),
        Rotary { inv_freq: name("f"), scale: 1.25 }.into(),
        Rope { head_dim: 16, style: RopeStyle::Interleaved }.into(),
        Append { layer: 3, kv_heads: 2, dtype: q35_bundle::CacheDtype::F16 }.into(),
        Attention { heads: 4, scale: 0.1, window: Some(9), softcap: Some(50.0), sinks: Some(name("s")) }.into(),
        LatentAttention { keys: name("k"), values: name("v"), heads: 4, scale: 0.1, window: Some(9), softcap: Some(50.0) }
            .into(),
        Glu { activation: Activation::Silu, limit: Some(7.0), alpha: 1.702, offset: 1.0 }.into(),
        Activate { kind: Activation::GeluTanh }.into(),
        Add {}.into(),
        Mul {}.into(),
        Scale { factor: -0.3 }.into(),
        Softcap { cap: 30.0 }.into(),
        Columns { start: 1, len: 2 }.into(),
        Route {
            scoring: Scoring::Sigmoid,
            choices: 2,
            correction: Some(name("c")),
            groups: 4,
            top_groups: 2,
            group_score: GroupScore::Two,
            normalize: true,
            eps: 1e-20,
            floor: 1e-12,
            scale: 2.5,
            margin: 0.0,
        }
        .into(),
        ExpertLinear { weight: name("w"), bias: Some(name("b")) }.into(),
        Combine {}.into(),
        Select {}.into(),
    ]
}

#[test]
fn every_op_is_its_name_and_attributes() {
    let samples = samples();
    assert_eq!(samples.iter().map(|op| op.decl()).collect::<Vec<_>>(), OPS.iter().collect::<Vec<_>>());
    for op in samples {
        let attrs = op.attrs();
        assert_eq!(attrs.len(), op.decl().attrs.len(), "{}", op.name());
        assert_eq!(Op::from_attrs(op.name(), &attrs), Ok(op.clone()));
        for field in op.decl().attrs {
            let mut without = attrs.clone();
            without.remove(field.name);
            assert_eq!(Op::from_attrs(op.name(), &without).is_ok(), field.optional, "{} {}", op.name(), field.name);
        }
        let mut other = attrs.clone();
        other.insert("colour".into(), Attr::Int(1));
        assert_eq!(Op::from_attrs(op.name(), &other), Err("'colour' is not declared".into()));
    }
}

#[test]
fn wrong_attributes_are_named() {
    let attrs = |value| Attrs::from([("head_dim".to_owned(), Attr::Int(4)), ("style".to_owned(), value)]);
    let text = "'style' is thirds, not halves or interleaved";
    assert_eq!(Op::from_attrs("rope", &attrs(Attr::Word("thirds".into()))), Err(text.into()));
    assert!(Op::from_attrs("rope", &attrs(Attr::Int(1))).is_err());
    assert_eq!(Op::from_attrs("conv", &Attrs::new()), Err("there is no op 'conv'".into()));
}

#[test]
fn everything_is_explained() {
    for op in OPS {
        assert!(!op.doc.trim().is_empty() && op.attrs.iter().all(|field| !field.doc.trim().is_empty()), "{}", op.name);
    }
}

/// IRDL keeps ops and types in one table of symbols.
#[test]
fn names_are_unique() {
    let ops = OPS.iter().map(|op| op.name);
    let types = crate::ty::Kind::ALL.iter().map(|kind| kind.decl().name);
    let mut names: Vec<&str> = ops.chain(types).chain([crate::semantics::PACKED.name]).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}
