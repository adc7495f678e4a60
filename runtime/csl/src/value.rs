//! Types, and values of the stack machine.

use crate::{Fault, Result};
use half::f16;
use std::sync::Arc;

/// Element types of memory: 16 or 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elem {
    /// `i16`
    I16,
    /// `u16`
    U16,
    /// `i32`
    I32,
    /// `u32`
    U32,
    /// `f16`
    F16,
    /// `f32`
    F32,
}

impl Elem {
    const ALL: [(&'static str, Elem); 6] = [
        ("i16", Self::I16),
        ("u16", Self::U16),
        ("i32", Self::I32),
        ("u32", Self::U32),
        ("f16", Self::F16),
        ("f32", Self::F32),
    ];

    /// The element type of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(n, _)| *n == name).map(|(_, elem)| *elem)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, elem)| *elem == self).map_or("", |(name, _)| name)
    }

    /// Memory words of 16 bits that an element takes.
    pub fn words(self) -> usize {
        match self {
            Self::I16 | Self::U16 | Self::F16 => 1,
            Self::I32 | Self::U32 | Self::F32 => 2,
        }
    }

    /// Reads an element at a word of memory.
    pub fn read(self, memory: &[u16], at: usize) -> Value {
        let wide = || u32::from(memory[at]) | u32::from(memory[at + 1]) << 16;
        match self {
            Self::I16 => Value::Int((memory[at] as i16).into()),
            Self::U16 => Value::Int(memory[at].into()),
            Self::F16 => Value::F16(f16::from_bits(memory[at])),
            Self::I32 => Value::Int((wide() as i32).into()),
            Self::U32 => Value::Int(wide().into()),
            Self::F32 => Value::F32(f32::from_bits(wide())),
        }
    }

    /// Writes a value that has this type, or a literal that can take it.
    pub fn write(self, memory: &mut [u16], at: usize, value: &Value) -> Result<()> {
        match self.of(value)? {
            Value::F16(x) => memory[at] = x.to_bits(),
            Value::F32(x) => store_wide(memory, at, x.to_bits()),
            Value::Int(x) if self.words() == 1 => memory[at] = x as u16,
            Value::Int(x) => store_wide(memory, at, x as u32),
            _ => unreachable!("`of` gives numbers"),
        }
        Ok(())
    }

    /// The value as this type, where the language converts it without being asked.
    pub fn of(self, value: &Value) -> Result<Value> {
        let range = match self {
            Self::I16 => (i16::MIN.into(), i16::MAX.into()),
            Self::U16 => (0, u16::MAX.into()),
            Self::I32 => (i32::MIN.into(), i32::MAX.into()),
            Self::U32 => (0, u32::MAX.into()),
            Self::F16 | Self::F32 => (0i64, 0i64),
        };
        match (self, value) {
            (Self::F16, Value::F16(_)) | (Self::F32, Value::F32(_)) => Ok(value.clone()),
            (Self::F16, Value::Float(x)) => Ok(Value::F16(f16::from_f64(*x))),
            (Self::F32, Value::Float(x)) => Ok(Value::F32(*x as f32)),
            (Self::F16 | Self::F32, _) => Err(Fault::new(format!("{} where {} is wanted", value.kind(), self.name()))),
            (_, Value::Int(x)) if (range.0..=range.1).contains(x) => Ok(value.clone()),
            (_, Value::Int(x)) => Err(Fault::new(format!("{x} does not fit {}", self.name()))),
            _ => Err(Fault::new(format!("{} where {} is wanted", value.kind(), self.name()))),
        }
    }
}

fn store_wide(memory: &mut [u16], at: usize, bits: u32) {
    memory[at] = bits as u16;
    memory[at + 1] = (bits >> 16) as u16;
}

/// A type.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// A number in memory.
    Elem(Elem),
    /// `[n]T`
    Array(usize, Elem),
    /// `[*]T`
    Pointer(Elem),
    /// `bool`
    Bool,
    /// `void`
    Void,
    /// `fn(T, ...)void`: a function that the host calls.
    Function(Arc<[Type]>),
    /// `mem1d_dsd`
    Mem1d,
    /// `fabin_dsd`
    Fabin,
    /// `fabout_dsd`
    Fabout,
    /// `color`
    Color,
    /// `input_queue`
    InputQueue,
    /// `output_queue`
    OutputQueue,
    /// `local_task_id`
    LocalTask,
    /// Whole numbers of other widths, and compile-time numbers: not checked further.
    Comptime,
}

impl Type {
    /// The type of a name.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "bool" => Self::Bool,
            "void" => Self::Void,
            "mem1d_dsd" => Self::Mem1d,
            "fabin_dsd" => Self::Fabin,
            "fabout_dsd" => Self::Fabout,
            "color" => Self::Color,
            "input_queue" => Self::InputQueue,
            "output_queue" => Self::OutputQueue,
            "local_task_id" => Self::LocalTask,
            "comptime_int" | "comptime_float" | "comptime_struct" | "comptime_string" => Self::Comptime,
            _ => Self::Elem(Elem::named(name)?),
        })
    }

    /// The value as this type, where the language converts it without being asked.
    pub fn of(&self, value: &Value) -> Result<Value> {
        let fits = match (self, value) {
            (Self::Elem(elem), _) => return elem.of(value),
            (Self::Pointer(elem), Value::Pointer { elem: of, .. }) => elem == of,
            (Self::Mem1d, Value::Dsd(dsd)) => matches!(dsd.place, Place::Memory { .. }),
            (Self::Fabin, Value::Dsd(dsd)) => matches!(dsd.place, Place::FabricIn { .. }),
            (Self::Fabout, Value::Dsd(dsd)) => matches!(dsd.place, Place::FabricOut { .. }),
            (Self::Bool, Value::Bool(_))
            | (Self::Void, Value::Void)
            | (Self::Color, Value::Color(_))
            | (Self::InputQueue, Value::InputQueue(_))
            | (Self::OutputQueue, Value::OutputQueue(_))
            | (Self::LocalTask, Value::Task(_))
            | (Self::Comptime, _) => true,
            _ => false,
        };
        if fits { Ok(value.clone()) } else { Err(Fault::new(format!("{} where {self:?} is wanted", value.kind()))) }
    }
}

/// What a DSD walks over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Elements of memory.
    Memory {
        /// Word of the first element.
        base: usize,
        /// Elements from one to the next: an `i8`.
        stride: i64,
        /// Type of the elements, as their array declares them.
        elem: Elem,
        /// The word behind the array.
        end: usize,
    },
    /// Wavelets that arrive.
    FabricIn {
        /// Input queue.
        queue: u8,
    },
    /// Wavelets that leave.
    FabricOut {
        /// Output queue.
        queue: u8,
    },
}

/// A data structure descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dsd {
    /// What it walks over.
    pub place: Place,
    /// How many elements: a `u16`.
    pub extent: usize,
}

/// Functions that are not written in CSL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Native {
    /// `<memcpy/memcpy>.unblock_cmd_stream()`
    UnblockCmdStream,
    /// `<memcpy/get_params>.get_params(x)`
    GetParams,
    /// `<layout>.get_x_coord()`
    XCoord,
    /// `<layout>.get_y_coord()`
    YCoord,
    /// `<math>.exp_f32(x)`
    Exp,
    /// `<math>.sqrt_f32(x)`
    Sqrt,
    /// `<math>.tanh_f32(x)`
    Tanh,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// None.
    Void,
    /// `true`, `false`
    Bool(bool),
    /// A whole number; its width is that of the place it is stored in.
    Int(i64),
    /// A literal with a point.
    Float(f64),
    /// `f16`
    F16(f16),
    /// `f32`
    F32(f32),
    /// A string.
    Text(Arc<str>),
    /// A type.
    Type(Type),
    /// `NORTH`, `SOUTH`, `EAST`, `WEST`, `RAMP`
    Direction(u8),
    /// A color.
    Color(u8),
    /// An input queue.
    InputQueue(u8),
    /// An output queue.
    OutputQueue(u8),
    /// A local task.
    Task(u8),
    /// A pointer to elements, or the address of an array.
    Pointer {
        /// Word of the first.
        base: usize,
        /// Their type.
        elem: Elem,
        /// How many there are from here to the end of the array.
        len: usize,
    },
    /// A DSD.
    Dsd(Dsd),
    /// Fields by name.
    Struct(Arc<[(String, Value)]>),
    /// Elements.
    List(Arc<[Value]>),
    /// An imported module.
    Module(usize),
    /// A module that comes with the SDK.
    Library(&'static str),
    /// A function, by number.
    Function(usize),
}

impl Value {
    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Void => "nothing",
            Self::Bool(_) => "a bool",
            Self::Int(_) => "a whole number",
            Self::Float(_) => "a literal with a point",
            Self::F16(_) => "an f16",
            Self::F32(_) => "an f32",
            Self::Text(_) => "a string",
            Self::Type(_) => "a type",
            Self::Direction(_) => "a direction",
            Self::Color(_) => "a color",
            Self::InputQueue(_) => "an input queue",
            Self::OutputQueue(_) => "an output queue",
            Self::Task(_) => "a task",
            Self::Pointer { .. } => "a pointer",
            Self::Dsd(_) => "a DSD",
            Self::Struct(_) => "a struct",
            Self::List(_) => "a list",
            Self::Module(_) | Self::Library(_) => "a module",
            Self::Function(_) => "a function",
        }
    }

    /// A whole number.
    pub fn int(&self) -> Result<i64> {
        match self {
            Self::Int(x) => Ok(*x),
            other => Err(Fault::new(format!("{} where a whole number is wanted", other.kind()))),
        }
    }

    /// A whole number of a range.
    pub fn within(&self, what: &str, low: i64, high: i64) -> Result<i64> {
        let x = self.int()?;
        if (low..=high).contains(&x) { Ok(x) } else { Err(Fault::new(format!("{what} {x} lies outside {low}..{high}"))) }
    }

    /// A condition.
    pub fn truth(&self) -> Result<bool> {
        match self {
            Self::Bool(x) => Ok(*x),
            other => Err(Fault::new(format!("{} where a bool is wanted", other.kind()))),
        }
    }

    /// A DSD.
    pub fn dsd(&self) -> Result<Dsd> {
        match self {
            Self::Dsd(dsd) => Ok(*dsd),
            other => Err(Fault::new(format!("{} where a DSD is wanted", other.kind()))),
        }
    }

    /// The fields of a struct.
    pub fn fields(&self) -> &[(String, Value)] {
        match self {
            Self::Struct(fields) => fields,
            _ => &[],
        }
    }

    /// A field of a struct.
    pub fn field(&self, name: &str) -> Option<&Value> {
        match self {
            Self::Struct(fields) => fields.iter().find(|(n, _)| n == name).map(|(_, value)| value),
            _ => None,
        }
    }
}

/// `a op b`, for numbers of one type; a literal takes the type of the other side.
pub(crate) fn binary(operator: &str, a: &Value, b: &Value) -> Result<Value> {
    use Value::{Bool, F16, F32, Float, Int};
    let mixed = || Fault::new(format!("'{operator}' between {} and {}", a.kind(), b.kind()));
    Ok(match (a, b) {
        (Int(a), Int(b)) => integers(operator, *a, *b)?,
        (Float(a), Float(b)) => floats(operator, *a, *b, Float)?,
        (F32(a), F32(b)) => floats(operator, *a, *b, F32)?,
        (F32(a), Float(b)) => floats(operator, *a, *b as f32, F32)?,
        (Float(a), F32(b)) => floats(operator, *a as f32, *b, F32)?,
        // The product, sum or quotient of two f16 in f32 rounds to the same f16 as the exact one.
        (F16(_) | Float(_), F16(_) | Float(_)) => {
            let number = |value: &Value| match value {
                F16(x) => x.to_f32(),
                Float(x) => f16::from_f64(*x).to_f32(),
                _ => 0.0,
            };
            match floats(operator, number(a), number(b), F32)? {
                F32(x) => F16(f16::from_f32(x)),
                other => other,
            }
        }
        (a, b) if matches!(operator, "==" | "!=") => {
            if std::mem::discriminant(a) != std::mem::discriminant(b) {
                return Err(mixed());
            }
            Bool((a == b) == (operator == "=="))
        }
        _ => return Err(mixed()),
    })
}

fn integers(operator: &str, a: i64, b: i64) -> Result<Value> {
    let checked = match operator {
        "+" => a.checked_add(b),
        "-" => a.checked_sub(b),
        "*" => a.checked_mul(b),
        "/" => a.checked_div(b),
        "%" => a.checked_rem(b),
        "&" => Some(a & b),
        "|" => Some(a | b),
        "^" => Some(a ^ b),
        "<<" => u32::try_from(b).ok().filter(|b| *b < 32).map(|b| a << b),
        ">>" => u32::try_from(b).ok().filter(|b| *b < 32).map(|b| a >> b),
        _ => return compare(operator, a.partial_cmp(&b)),
    };
    checked.map(Value::Int).ok_or_else(|| Fault::new(format!("{a} {operator} {b} has no value")))
}

fn floats<T>(operator: &str, a: T, b: T, wrap: fn(T) -> Value) -> Result<Value>
where
    T: std::ops::Add<Output = T>
        + std::ops::Sub<Output = T>
        + std::ops::Mul<Output = T>
        + std::ops::Div<Output = T>
        + PartialOrd,
{
    Ok(wrap(match operator {
        "+" => a + b,
        "-" => a - b,
        "*" => a * b,
        "/" => a / b,
        _ => return compare(operator, a.partial_cmp(&b)),
    }))
}

fn compare(operator: &str, order: Option<std::cmp::Ordering>) -> Result<Value> {
    use std::cmp::Ordering::{Equal, Greater, Less};
    Ok(Value::Bool(match operator {
        "==" => order == Some(Equal),
        "!=" => order != Some(Equal),
        "<" => order == Some(Less),
        ">" => order == Some(Greater),
        "<=" => matches!(order, Some(Less | Equal)),
        ">=" => matches!(order, Some(Greater | Equal)),
        _ => return Err(Fault::new(format!("'{operator}' has no meaning for these numbers"))),
    }))
}

/// `op a`
pub(crate) fn unary(operator: &str, a: &Value) -> Result<Value> {
    Ok(match (operator, a) {
        ("-", Value::Int(x)) => Value::Int(x.wrapping_neg()),
        ("-", Value::Float(x)) => Value::Float(-x),
        ("-", Value::F32(x)) => Value::F32(-x),
        ("-", Value::F16(x)) => Value::F16(-*x),
        ("!", Value::Bool(x)) => Value::Bool(!x),
        ("~", Value::Int(x)) => Value::Int(!x),
        _ => return Err(Fault::new(format!("'{operator}' before {}", a.kind()))),
    })
}

/// `@as(type, value)`
pub(crate) fn convert(ty: &Type, value: &Value) -> Result<Value> {
    let Type::Elem(elem) = ty else { return ty.of(value) };
    let number = match value {
        Value::Int(x) => *x as f64,
        Value::Float(x) => *x,
        Value::F32(x) => f64::from(*x),
        Value::F16(x) => x.to_f64(),
        other => return Err(Fault::new(format!("{} becomes no {}", other.kind(), elem.name()))),
    };
    match elem {
        Elem::F32 => Ok(Value::F32(number as f32)),
        Elem::F16 => Ok(Value::F16(f16::from_f64(number))),
        _ => elem.of(&Value::Int(number as i64)),
    }
}
