//! Attribute values: what an op carries besides its operands.
//!
//! A Rust type that may stand in an op's declaration implements [`Attribute`]: it turns into an [`Attr`] and back, and names
//! its [`AttrKind`]. Printing, IRDL, MLIR and the documentation page know [`Attr`] and [`AttrKind`] only, never a particular
//! op.

use std::collections::BTreeMap;
use std::fmt;

/// Name of a parameter: a symbol of the MLIR module and the stem of tensor names in the weights file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParamName(String);

impl ParamName {
    /// A name.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for ParamName {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<String> for ParamName {
    fn from(name: String) -> Self {
        Self(name)
    }
}

impl fmt::Display for ParamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Attr {
    /// A whole number; a seed uses all 64 bits.
    Int(u64),
    /// A number.
    Float(f32),
    /// Yes or no.
    Bool(bool),
    /// One of a few words.
    Word(String),
    /// A parameter.
    Param(ParamName),
}

/// Attributes by name.
pub type Attrs = BTreeMap<String, Attr>;

/// What values an attribute may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttrKind {
    /// [`Attr::Int`].
    Int,
    /// [`Attr::Float`].
    Float,
    /// [`Attr::Bool`].
    Bool,
    /// [`Attr::Word`], one of these.
    Word(&'static [&'static str]),
    /// [`Attr::Word`], with words of another crate's table.
    Text,
    /// [`Attr::Param`].
    Param,
}

impl fmt::Display for AttrKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int => f.write_str("integer"),
            Self::Float => f.write_str("f32"),
            Self::Bool => f.write_str("bool"),
            Self::Word(words) => f.write_str(&words.join(" or ")),
            Self::Text => f.write_str("text"),
            Self::Param => f.write_str("parameter"),
        }
    }
}

/// A Rust type that may stand in a declaration.
pub trait Attribute: Sized {
    /// The values it turns into.
    const KIND: AttrKind;
    /// Whether it may be absent.
    const OPTIONAL: bool = false;
    /// The value, or `None` where it is absent.
    fn to_attr(&self) -> Option<Attr>;
    /// The inverse of [`Attribute::to_attr`]; `None` where the value does not fit.
    fn from_attr(attr: Option<&Attr>) -> Option<Self>;
}

/// Implements [`Attribute`] for a type that is the payload of one variant of [`Attr`].
macro_rules! payload {
    ($($variant:ident($ty:ty))*) => { $(
        impl Attribute for $ty {
            const KIND: AttrKind = AttrKind::$variant;
            fn to_attr(&self) -> Option<Attr> {
                Some(Attr::$variant(self.clone()))
            }
            fn from_attr(attr: Option<&Attr>) -> Option<Self> {
                match attr {
                    Some(Attr::$variant(value)) => Some(value.clone()),
                    _ => None,
                }
            }
        }
    )* };
}

payload! { Int(u64) Float(f32) Bool(bool) Param(ParamName) }

impl Attribute for u32 {
    const KIND: AttrKind = AttrKind::Int;
    fn to_attr(&self) -> Option<Attr> {
        Some(Attr::Int((*self).into()))
    }
    fn from_attr(attr: Option<&Attr>) -> Option<Self> {
        u64::from_attr(attr)?.try_into().ok()
    }
}

impl<T: Attribute> Attribute for Option<T> {
    const KIND: AttrKind = T::KIND;
    const OPTIONAL: bool = true;
    fn to_attr(&self) -> Option<Attr> {
        self.as_ref().and_then(T::to_attr)
    }
    fn from_attr(attr: Option<&Attr>) -> Option<Self> {
        attr.map_or(Some(None), |_| T::from_attr(attr).map(Some))
    }
}

/// Implements [`Attribute`] for an enum by naming its variants.
macro_rules! words {
    ($ty:ty { $($variant:ident = $word:literal),* $(,)? }) => {
        impl $crate::attr::Attribute for $ty {
            const KIND: $crate::attr::AttrKind = $crate::attr::AttrKind::Word(&[$($word),*]);
            fn to_attr(&self) -> Option<$crate::attr::Attr> {
                let word = match self { $(Self::$variant => $word),* };
                Some($crate::attr::Attr::Word(word.to_owned()))
            }
            fn from_attr(attr: Option<&$crate::attr::Attr>) -> Option<Self> {
                let Some($crate::attr::Attr::Word(word)) = attr else { return None };
                match word.as_str() { $($word => Some(Self::$variant),)* _ => None }
            }
        }
    };
}
pub(crate) use words;

/// Implements [`Attribute`] for a type whose `Display` and `FromStr` are inverse.
macro_rules! text {
    ($($ty:ty)*) => { $(
        impl $crate::attr::Attribute for $ty {
            const KIND: $crate::attr::AttrKind = $crate::attr::AttrKind::Text;
            fn to_attr(&self) -> Option<$crate::attr::Attr> {
                Some($crate::attr::Attr::Word(self.to_string()))
            }
            fn from_attr(attr: Option<&$crate::attr::Attr>) -> Option<Self> {
                match attr {
                    Some($crate::attr::Attr::Word(word)) => word.parse().ok(),
                    _ => None,
                }
            }
        }
    )* };
}

pub(crate) use text;

text! { q35_format::Codec q35_format::Group }

words!(q35_bundle::CacheDtype { F32 = "f32", F16 = "f16" });

/// Takes the field `name` out of `attrs`; an error says what is wrong with it.
pub(crate) fn read<T: Attribute>(attrs: &Attrs, name: &str) -> Result<T, String> {
    T::from_attr(attrs.get(name)).ok_or_else(|| match attrs.get(name) {
        None => format!("'{name}' is missing"),
        Some(value) => format!("'{name}' is {value}, not {}", T::KIND),
    })
}

/// Fails if `attrs` has a name that is not in `known`.
pub(crate) fn refuse_others(attrs: &Attrs, known: &[&str]) -> Result<(), String> {
    match attrs.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(format!("'{name}' is not declared")),
        None => Ok(()),
    }
}

impl fmt::Display for Attr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(n) => write!(f, "{n}"),
            Self::Float(x) => write!(f, "{x:?}"),
            Self::Bool(yes) => write!(f, "{yes}"),
            Self::Word(word) => f.write_str(word),
            Self::Param(name) => write!(f, "@{name}"),
        }
    }
}
