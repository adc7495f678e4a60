//! What the user decides about a compile's result, made consistent.

use crate::cli::{GroupChoice, Shape, Switch};
use q35_diag::{Code, Diagnostic, Diagnostics, Result};
use q35_format::{Codec, Group};
use q35_passes::model::WeightOptions;
use std::collections::BTreeMap;

/// The codec of linear layers unless said otherwise.
pub const DEFAULT_CODEC: Codec = Codec::W8;

/// Options that shape the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Codec, groups and rotation.
    pub weights: WeightOptions,
    /// Longest context, if the user said so.
    pub context: Option<u64>,
    /// Bytes of memory the compile may use, if the user said so.
    pub max_memory: Option<u64>,
}

impl Settings {
    /// From the command line. Options that contradict each other are reported, all at once.
    pub fn new(shape: &Shape) -> Result<Self> {
        let mut problems = Diagnostics::new();
        let codec = if shape.codec == "auto" { Ok(DEFAULT_CODEC) } else { shape.codec.parse() };
        let codec = codec.unwrap_or_else(|e| unreachable!("the command line takes known codecs only: {e}"));
        let group = match shape.group {
            GroupChoice::Row => Group::Row,
            GroupChoice::Columns64 => Group::Columns(64),
            GroupChoice::Columns128 => Group::Columns(128),
        };
        let mut refuse = |option: &str, why: &str| {
            problems.push(
                Diagnostic::error(Code::BadOption, format!("{option} has no meaning for codec {codec}"))
                    .at("option", option)
                    .help(why),
            );
        };
        if group != Group::Row && !codec.has_scales() {
            refuse("--group", "only codecs with scales have groups: split, w7, w8, w9, w10, q8");
        }
        let can_rotate = codec.window().is_some();
        if shape.rotate == Some(Switch::On) && !can_rotate {
            refuse("--rotate", "rotation serves the 3.5-bit codecs: split, w7, w8, w9, w10");
        }
        let rotate = shape.rotate.map_or(can_rotate, |switch| switch == Switch::On);
        let weights = WeightOptions { codec, group, rotate };
        problems.into_result(Self { weights, context: shape.context, max_memory: shape.max_memory })
    }

    /// For the manifest: what shaped the result, by name.
    pub fn recorded(&self, context: u64) -> BTreeMap<String, String> {
        let WeightOptions { codec, group, rotate } = self.weights;
        let rotate = if rotate { "on" } else { "off" };
        [
            ("codec", codec.to_string()),
            ("group", group.to_string()),
            ("rotate", rotate.to_owned()),
            ("context", context.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// The inverse of [`Self::recorded`]; `None` if something is missing or unknown.
    pub fn from_recorded(options: &BTreeMap<String, String>) -> Option<Self> {
        let get = |name: &str| options.get(name).map(String::as_str);
        let rotate = match get("rotate")? {
            "on" => true,
            "off" => false,
            _ => return None,
        };
        let weights = WeightOptions { codec: get("codec")?.parse().ok()?, group: get("group")?.parse().ok()?, rotate };
        Some(Self { weights, context: Some(get("context")?.parse().ok()?), max_memory: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(codec: &str, rotate: Option<Switch>, group: GroupChoice) -> Shape {
        Shape { codec: codec.to_owned(), rotate, group, context: None, max_memory: None }
    }

    #[test]
    fn rotation_is_on_where_it_helps() {
        let weights = |codec, rotate| Settings::new(&shape(codec, rotate, GroupChoice::Row)).unwrap().weights;
        assert_eq!(weights("auto", None), WeightOptions { codec: Codec::W8, group: Group::Row, rotate: true });
        assert!(!weights("w8", Some(Switch::Off)).rotate);
        assert!(!weights("f32", None).rotate);
        assert!(!weights("q8", None).rotate);
    }

    #[test]
    fn contradictions_are_reported_together() {
        let text = Settings::new(&shape("f32", Some(Switch::On), GroupChoice::Columns64)).unwrap_err().to_string();
        assert_eq!(
            text,
            "error[Q35-0303]: --group has no meaning for codec f32\n  at option '--group'\n  \
             help: only codecs with scales have groups: split, w7, w8, w9, w10, q8\n\
             error[Q35-0303]: --rotate has no meaning for codec f32\n  at option '--rotate'\n  \
             help: rotation serves the 3.5-bit codecs: split, w7, w8, w9, w10"
        );
    }

    #[test]
    fn what_is_recorded_has_no_paths_and_no_times() {
        let settings = Settings::new(&shape("split", None, GroupChoice::Columns128)).unwrap();
        assert_eq!(Settings::from_recorded(&settings.recorded(1024)).unwrap().weights, settings.weights);
        let text = format!("{:?}", settings.recorded(1024));
        assert_eq!(text, r#"{"codec": "split", "context": "1024", "group": "128", "rotate": "on"}"#);
    }
}
