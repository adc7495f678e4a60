//! What a file records about a value: `ValueInfoProto` becomes a [`SourceType`].

use super::proto::{DTYPES, Dimension, DimensionValue, ValueInfo};
use q35_graph::source::{Dim, SourceType};
use std::collections::HashMap;

/// Recorded types by the name of the value.
pub(super) type Types<'m> = HashMap<&'m str, &'m ValueInfo>;

/// Indexes recorded types; an entry that has none does not hide one that has.
pub(super) fn index<'m>(infos: impl IntoIterator<Item = &'m ValueInfo>) -> Types<'m> {
    infos.into_iter().filter(|info| info.r#type.is_some()).map(|info| (info.name.as_str(), info)).collect()
}

/// The type of the value `name`, which the compiler calls `prefix` + `name`.
pub(super) fn of(types: &Types, prefix: &str, name: &str) -> SourceType {
    let tensor = types.get(name).and_then(|info| info.r#type.as_ref()?.tensor_type.as_ref());
    SourceType {
        name: format!("{prefix}{name}"),
        dtype: tensor.and_then(|t| DTYPES.iter().find(|row| row.0 == t.elem_type)?.2),
        dims: tensor.and_then(|t| Some(t.shape.as_ref()?.dim.iter().map(dim).collect())),
    }
}

/// A dimension; a name that is a number in digits is that number.
fn dim(proto: &Dimension) -> Dim {
    match &proto.value {
        Some(DimensionValue::Value(n)) => u64::try_from(*n).map_or(Dim::Unknown, Dim::Fixed),
        Some(DimensionValue::Param(name)) if !name.is_empty() => match name.parse() {
            Ok(n) if name.bytes().all(|b| b.is_ascii_digit()) => Dim::Fixed(n),
            _ => Dim::Named(name.clone()),
        },
        _ => Dim::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_may_be_written_as_a_name() {
        let param = |s: &str| dim(&Dimension { value: Some(DimensionValue::Param(s.into())) });
        assert_eq!(param("16"), Dim::Fixed(16));
        assert_eq!(param("s36 + s70"), Dim::Named("s36 + s70".into()));
        assert_eq!(param("+5"), Dim::Named("+5".into()));
        assert_eq!(param(""), Dim::Unknown);
        assert_eq!(dim(&Dimension { value: Some(DimensionValue::Value(-1)) }), Dim::Unknown);
    }
}
