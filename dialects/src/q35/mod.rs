//! The ops of the q35 dialect, one file each, and the table of them.

mod activate;
mod activation;
mod add;
mod append;
mod attention;
mod columns;
mod combine;
mod embed;
mod expert_linear;
mod glu;
mod hadamard;
mod latent_attention;
mod layer_norm;
mod linear;
mod mul;
mod positions;
mod quantize;
mod rms_norm;
mod rope;
mod rotary;
mod route;
mod scale;
mod select;
mod softcap;
mod tokens;

pub use activation::Activation;
pub use append::assign_cache_dtype;
pub use rope::RopeStyle;
pub use route::{GroupScore, Scoring};

use crate::attr::{Attr, Attrs, ParamName};
use crate::data::Data;
use crate::decl::{Declared, OpDecl};
use crate::interp::Env;
use crate::semantics::{Cost, ParamTable, Semantics};
use crate::ty::Ty;

/// The enum of all ops, its table, and dispatch.
macro_rules! ops {
    ($($module:ident::$Name:ident)*) => {
        $(pub use $module::$Name;)*

        /// An op of the dialect.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs)] // each op's struct says what it is
        pub enum Op { $($Name($Name)),* }

        $(impl From<$Name> for Op {
            fn from(op: $Name) -> Self {
                Self::$Name(op)
            }
        })*

        /// The table of ops, in the order in which a step uses them.
        pub static OPS: &[OpDecl] = &[$($Name::DECL),*];

        impl Op {
            /// The op's row of [`OPS`].
            pub fn decl(&self) -> &'static OpDecl {
                match self { $(Self::$Name(_) => &const { $Name::DECL }),* }
            }

            /// Attributes that are present, by name.
            pub fn attrs(&self) -> Attrs {
                match self { $(Self::$Name(op) => op.attrs()),* }
            }

            /// The op of this name with these attributes; an error says what is unknown or does not fit.
            pub fn from_attrs(name: &str, attrs: &Attrs) -> Result<Self, String> {
                $(if name == $Name::DECL.name {
                    return $Name::from_attrs(attrs).map(Self::$Name);
                })*
                Err(format!("there is no op '{name}'"))
            }

            fn semantics(&self) -> &dyn Semantics {
                match self { $(Self::$Name(op) => op),* }
            }
        }
    };
}

ops! {
    tokens::Tokens
    positions::Positions
    embed::Embed
    rms_norm::RmsNorm
    layer_norm::LayerNorm
    hadamard::Hadamard
    quantize::Quantize
    linear::Linear
    rotary::Rotary
    rope::Rope
    append::Append
    attention::Attention
    latent_attention::LatentAttention
    glu::Glu
    activate::Activate
    add::Add
    mul::Mul
    scale::Scale
    softcap::Softcap
    columns::Columns
    route::Route
    expert_linear::ExpertLinear
    combine::Combine
    select::Select
}

impl Op {
    /// Name within the dialect.
    pub fn name(&self) -> &'static str {
        self.decl().name
    }

    /// Parameters it reads, in order of attribute name.
    pub fn params(&self) -> Vec<ParamName> {
        let param = |attr| match attr {
            Attr::Param(name) => Some(name),
            _ => None,
        };
        self.attrs().into_values().filter_map(param).collect()
    }

    /// The weight of a linear layer, or the stack of weights of one layer's experts.
    pub fn layer_weight(&self) -> Option<&ParamName> {
        match self {
            Self::Linear(op) => Some(&op.weight),
            Self::ExpertLinear(op) => Some(&op.weight),
            _ => None,
        }
    }

    /// Whether it reads the cache: everything after the last such op works row by row.
    pub fn attends(&self) -> bool {
        matches!(self, Self::Attention(_) | Self::LatentAttention(_))
    }

    /// The type of its result; an error says what does not fit, in terms of the declaration's names.
    pub fn infer(&self, operands: &[Ty], params: &dyn ParamTable) -> Result<Ty, String> {
        let decl = self.decl();
        if operands.len() != decl.operands.len() {
            return Err(format!("{} operands given, {} declared", operands.len(), decl.operands.len()));
        }
        for (operand, ty) in decl.operands.iter().zip(operands) {
            if !operand.kinds.contains(&ty.kind()) {
                let kinds: Vec<&str> = operand.kinds.iter().map(|kind| kind.decl().name).collect();
                return Err(format!("operand '{}' is {ty}, not {}", operand.name, kinds.join(" or ")));
            }
        }
        let result = self.semantics().infer(operands, params)?;
        assert_eq!(result.kind(), decl.result, "inference of '{}' obeys its declaration", decl.name);
        Ok(result)
    }

    /// What it costs, for operands and a result that inference accepted.
    pub fn cost(&self, operands: &[Ty], result: &Ty, params: &dyn ParamTable) -> Cost {
        self.semantics().cost(operands, result, params)
    }

    /// Its value, for operands that inference accepted. See [`Semantics::eval`].
    pub fn eval(&self, operands: &[&Data], env: &mut Env<'_>) -> q35_diag::Result<Data> {
        self.semantics().eval(operands, env)
    }
}

mod shared;
pub(crate) use shared::{map, same_rows, same_shape, same_shape_or_column, zip};

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
pub(crate) mod table_tests;
