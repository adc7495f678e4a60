//! The layout block, evaluated: who stands where with which program, and every route.

use crate::ast::{File, ItemKind};
use crate::image::{Builder, Image};
use crate::value::{Type, Value};
use crate::{Fault, Result, parser};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Parsed files by name.
pub type Sources = BTreeMap<String, Arc<File>>;

/// Parses files.
pub fn parse(files: &BTreeMap<String, String>) -> Result<Sources> {
    files.iter().map(|(name, text)| Ok((name.clone(), Arc::new(parser::parse(name, text)?)))).collect()
}

/// Directions, as bits of [`Config`] and indices of neighbours.
pub const DIRECTIONS: [&str; 5] = ["NORTH", "SOUTH", "EAST", "WEST", "RAMP"];
/// The index of the ramp.
pub const RAMP: usize = 4;

/// The direction that looks back.
pub fn opposite(direction: usize) -> usize {
    [1, 0, 3, 2, 4][direction]
}

/// Where a color comes from and goes to at one PE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Directions it is received from, one bit each.
    pub rx: u8,
    /// Directions it is sent to, one bit each.
    pub tx: u8,
}

/// A name that the host knows.
#[derive(Clone, Debug, PartialEq)]
pub struct Export {
    /// Type of the pointer or of the function.
    pub ty: Type,
    /// Whether the host may write through it.
    pub mutable: bool,
}

/// The rectangle.
#[derive(Debug)]
pub struct Layout {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Distinct programs.
    pub images: Vec<Image>,
    /// File of each distinct program.
    pub files: Vec<String>,
    /// Program of each PE, row by row.
    pub tiles: Vec<Option<usize>>,
    /// Routes by PE (row by row) and color.
    pub configs: BTreeMap<(usize, u8), Config>,
    /// Names that the host knows.
    pub exports: BTreeMap<String, Export>,
}

impl Layout {
    /// Evaluates `layout.csl` among the sources.
    pub fn build(sources: &Sources) -> Result<Self> {
        const FILE: &str = "layout.csl";
        let mut builder = Builder::new(sources);
        let module = builder.module(FILE, &[])?;
        let syntax = sources.get(FILE).cloned().ok_or_else(|| Fault::new("there is no layout.csl"))?;
        let mut layout = Self {
            width: 0,
            height: 0,
            images: Vec::new(),
            files: Vec::new(),
            tiles: Vec::new(),
            configs: BTreeMap::new(),
            exports: BTreeMap::new(),
        };
        let mut programs: Vec<(String, Value)> = Vec::new();
        for item in &syntax.items {
            if let ItemKind::Layout(body) = &item.kind {
                builder.run_block(module, body, item.line, &mut |_, name, args| {
                    layout.declare(sources, &mut programs, name, &args).map_err(|f| f.at(FILE, item.line))
                })?;
            }
        }
        if layout.width == 0 {
            return Err(Fault::new("the layout sets no rectangle"));
        }
        Ok(layout)
    }

    fn pe(&self, x: &Value, y: &Value) -> Result<usize> {
        let x = x.within("column", 0, self.width as i64 - 1)? as usize;
        let y = y.within("row", 0, self.height as i64 - 1)? as usize;
        Ok(y * self.width + x)
    }

    fn declare(&mut self, sources: &Sources, programs: &mut Vec<(String, Value)>, name: &str, args: &[Value]) -> Result<()> {
        match (name, args) {
            ("set_rectangle", [w, h]) => {
                if self.width != 0 {
                    return Err(Fault::new("the rectangle is set twice"));
                }
                // The fabric of a WSE-3, less what memcpy takes.
                self.width = w.within("the width", 1, 755)? as usize;
                self.height = h.within("the height", 1, 1170)? as usize;
                self.tiles = vec![None; self.width * self.height];
            }
            ("set_tile_code", [x, y, Value::Text(file), params]) => {
                let pe = self.pe(x, y)?;
                let Value::Struct(fields) = params else { return Err(Fault::new("tile code takes a struct of parameters")) };
                // The host's streams make no difference to the program.
                let distinct: Arc<[(String, Value)]> = fields.iter().filter(|(n, _)| n != "memcpy_params").cloned().collect();
                let key = (file.to_string(), Value::Struct(distinct));
                let known = programs.iter().position(|program| *program == key);
                let image = match known {
                    Some(known) => known,
                    None => {
                        self.images.push(Image::build(sources, file, fields)?);
                        self.files.push(file.to_string());
                        programs.push(key);
                        programs.len() - 1
                    }
                };
                if self.tiles[pe].replace(image).is_some() {
                    return Err(Fault::new(format!("PE {} gets code twice", self.show(pe))));
                }
            }
            ("set_color_config", [x, y, Value::Color(color), fields]) => {
                let pe = self.pe(x, y)?;
                let routes = fields.field("routes").ok_or_else(|| Fault::new("a color config has routes"))?;
                // Switches, filters and teardown are not understood: a program that has them is not the one that would be checked.
                only(fields, &["routes"])?;
                only(routes, &["rx", "tx"])?;
                let config = Config { rx: directions(routes.field("rx"))?, tx: directions(routes.field("tx"))? };
                if self.configs.insert((pe, *color), config).is_some() {
                    return Err(Fault::new(format!("color {color} is configured twice at PE {}", self.show(pe))));
                }
            }
            ("export_name", [Value::Text(name), Value::Type(ty), rest @ ..]) => {
                let mutable = match (ty, rest) {
                    (Type::Pointer(_), [flag]) => flag.truth()?,
                    (Type::Pointer(_), _) => return Err(Fault::new(format!("'{name}' is not said to be mutable or not"))),
                    (Type::Function(params), []) => callable(params).map(|()| false)?,
                    (Type::Function(_), _) => return Err(Fault::new(format!("'{name}' is a function, and not mutable"))),
                    _ => return Err(Fault::new(format!("'{name}' is neither a pointer nor a function"))),
                };
                if self.exports.insert(name.to_string(), Export { ty: ty.clone(), mutable }).is_some() {
                    return Err(Fault::new(format!("'{name}' is exported twice")));
                }
            }
            _ => return Err(Fault::new(format!("'@{name}' has no meaning in a layout"))),
        }
        Ok(())
    }

    /// Column and row of a PE, for messages.
    pub fn show(&self, pe: usize) -> String {
        format!("({}, {})", pe % self.width, pe / self.width)
    }

    /// The PE next to `pe` in a direction, if the rectangle has one.
    pub fn neighbour(&self, pe: usize, direction: usize) -> Option<usize> {
        let (x, y) = (pe % self.width, pe / self.width);
        match direction {
            0 => y.checked_sub(1).map(|y| y * self.width + x),
            1 => (y + 1 < self.height).then(|| pe + self.width),
            2 => (x + 1 < self.width).then(|| pe + 1),
            3 => x.checked_sub(1).map(|_| pe - 1),
            _ => None,
        }
    }

    /// The table of routes: a line per PE and color.
    pub fn routes(&self) -> String {
        let words = |bits: u8| {
            let set: Vec<&str> = (0..5).filter(|d| bits >> d & 1 == 1).map(|d| DIRECTIONS[d]).collect();
            set.join(",")
        };
        let line = |(&(pe, color), config): (&(usize, u8), &Config)| {
            format!("{} {} color {color}: rx {} tx {}\n", pe % self.width, pe / self.width, words(config.rx), words(config.tx))
        };
        self.configs.iter().map(line).collect()
    }
}

/// That a struct has these fields alone.
pub(crate) fn only(fields: &Value, known: &[&str]) -> Result<()> {
    match fields.fields().iter().find(|(name, _)| !known.contains(&name.as_str())) {
        Some((name, _)) => Err(Fault::new(format!("the field '{name}' is not understood here"))),
        None => Ok(()),
    }
}

/// Most parameters of a function that the host calls.
const PARAMS: usize = 15;

/// That the host can call a function with these parameters.
fn callable(params: &[Type]) -> Result<()> {
    match params.len() <= PARAMS && params.iter().all(|param| matches!(param, Type::Elem(_))) {
        true => Ok(()),
        false => Err(Fault::new(format!("a host passes at most {PARAMS} numbers of 16 or 32 bits"))),
    }
}

fn directions(list: Option<&Value>) -> Result<u8> {
    let Some(Value::List(list)) = list else { return Err(Fault::new("a route has lists of directions 'rx' and 'tx'")) };
    list.iter().try_fold(0, |bits, value| match value {
        Value::Direction(direction) => Ok(bits | 1 << direction),
        other => Err(Fault::new(format!("{} is no direction", other.kind()))),
    })
}
