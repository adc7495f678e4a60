//! Declarations: what IRDL, printing, reading and the documentation page are made from.
//!
//! `op!` declares an op once: its struct, and its row in the table of ops. `types!` does the same for the types of values.
//! Neither knows any particular op.

use crate::attr::{AttrKind, Attrs};
use crate::ty::Kind;

/// A named field of an op or a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldDecl {
    /// Name, as in the Rust struct and in MLIR.
    pub name: &'static str,
    /// Meaning, one paragraph.
    pub doc: &'static str,
    /// What values it may have.
    pub kind: AttrKind,
    /// Whether it may be absent.
    pub optional: bool,
}

/// An operand of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperandDecl {
    /// Name, for documentation and messages.
    pub name: &'static str,
    /// The kinds of type it may have.
    pub kinds: &'static [Kind],
}

/// An op of the dialect. Every op has a fixed number of operands and one result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpDecl {
    /// Name within the dialect.
    pub name: &'static str,
    /// Meaning.
    pub doc: &'static str,
    /// Operands, in order; none is optional.
    pub operands: &'static [OperandDecl],
    /// The kind of its result.
    pub result: Kind,
    /// Attributes, in order of declaration.
    pub attrs: &'static [FieldDecl],
}

/// A type of the dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TyDecl {
    /// Name within the dialect.
    pub name: &'static str,
    /// Meaning.
    pub doc: &'static str,
    /// Parameters, in order; none is optional.
    pub fields: &'static [FieldDecl],
}

/// What `op!` gives an op's struct.
pub trait Declared: Sized {
    /// The op's row of the table.
    const DECL: OpDecl;
    /// Attributes that are present, by name.
    fn attrs(&self) -> Attrs;
    /// The op with these attributes; an error names the attribute that is missing, unknown or of the wrong kind.
    fn from_attrs(attrs: &Attrs) -> Result<Self, String>;
}

/// Declares an op: `Name = "name"(operand: Kind | Kind, ...) -> Kind { attribute: Type, ... }`, each with its meaning as a doc
/// comment.
macro_rules! op {
    (
        $(#[doc = $doc:literal])*
        $Name:ident = $name:literal ($($operand:ident: $($kind:ident)|+),*) -> $result:ident {
            $($(#[doc = $field_doc:literal])* $field:ident: $ty:ty,)*
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $Name { $($(#[doc = $field_doc])* pub $field: $ty,)* }

        impl $crate::decl::Declared for $Name {
            const DECL: $crate::decl::OpDecl = $crate::decl::OpDecl {
                name: $name,
                doc: concat!($($doc, "\n"),*),
                operands: &[$($crate::decl::OperandDecl {
                    name: stringify!($operand),
                    kinds: &[$($crate::ty::Kind::$kind),+],
                }),*],
                result: $crate::ty::Kind::$result,
                attrs: $crate::decl::fields!($($(#[doc = $field_doc])* $field: $ty,)*),
            };
            fn attrs(&self) -> $crate::attr::Attrs {
                let present: &[(&str, Option<$crate::attr::Attr>)] =
                    &[$((stringify!($field), $crate::attr::Attribute::to_attr(&self.$field))),*];
                present.iter().filter_map(|(name, attr)| Some(((*name).to_owned(), attr.clone()?))).collect()
            }
            fn from_attrs(attrs: &$crate::attr::Attrs) -> Result<Self, String> {
                $crate::attr::refuse_others(attrs, &[$(stringify!($field)),*])?;
                Ok(Self { $($field: $crate::attr::read(attrs, stringify!($field))?,)* })
            }
        }
    };
}
pub(crate) use op;

/// The declarations of named fields.
macro_rules! fields {
    ($($(#[doc = $doc:literal])* $field:ident: $ty:ty,)*) => {
        &[$($crate::decl::FieldDecl {
            name: stringify!($field),
            doc: concat!($($doc, "\n"),*),
            kind: <$ty as $crate::attr::Attribute>::KIND,
            optional: <$ty as $crate::attr::Attribute>::OPTIONAL,
        }),*]
    };
}
pub(crate) use fields;

/// Declares the types of values: the enum of types, the enum of their kinds, and their table.
macro_rules! types {
    ($(
        $(#[doc = $doc:literal])*
        $Name:ident = $name:literal { $($(#[doc = $field_doc:literal])* $field:ident: $ty:ty,)* }
    )*) => {
        /// The type of a value.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Ty { $($(#[doc = $doc])* $Name { $($(#[doc = $field_doc])* $field: $ty,)* },)* }

        /// Which type constructor a type is made with.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $($(#[doc = $doc])* $Name,)* }

        impl Kind {
            /// Every kind, in order of declaration.
            pub const ALL: &[Kind] = &[$(Kind::$Name),*];

            /// The declaration.
            pub fn decl(self) -> &'static $crate::decl::TyDecl {
                const DECLS: &[$crate::decl::TyDecl] = &[$($crate::decl::TyDecl {
                    name: $name,
                    doc: concat!($($doc, "\n"),*),
                    fields: $crate::decl::fields!($($(#[doc = $field_doc])* $field: $ty,)*),
                }),*];
                &DECLS[self as usize]
            }
        }

        impl Ty {
            /// Its constructor.
            pub fn kind(&self) -> Kind {
                match self { $(Ty::$Name { .. } => Kind::$Name),* }
            }

            /// Its parameters, in order of declaration.
            pub fn fields(&self) -> Vec<$crate::attr::Attr> {
                match self {
                    $(Ty::$Name { $($field),* } => [$($crate::attr::Attribute::to_attr($field)),*].into_iter().flatten().collect()),*
                }
            }

            /// The type of a kind with these parameters; `None` where they do not fit.
            pub fn from_fields(kind: Kind, fields: &[$crate::attr::Attr]) -> Option<Self> {
                if fields.len() != kind.decl().fields.len() {
                    return None;
                }
                let mut fields = fields.iter();
                match kind {
                    $(Kind::$Name => Some(Ty::$Name { $($field: $crate::attr::Attribute::from_attr(fields.next())?),* })),*
                }
            }
        }
    };
}
pub(crate) use types;
