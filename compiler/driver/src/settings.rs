//! What the user decides about a compile's result, made consistent.

use crate::cli::{GroupChoice, Shape, Switch};
use q35_bundle::CacheDtype;
use q35_diag::{Code, Diagnostic, Diagnostics, Result};
use q35_dialects::{Activations, Program};
use q35_format::{Codec, Group};
use q35_passes::model::WeightOptions;
use q35_target::{Capabilities, Levels, Request};
use std::collections::BTreeMap;

/// Options that shape the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Codec, groups, rotation, and the KV cache.
    pub weights: WeightOptions,
    /// Longest context, if the user said so.
    pub context: Option<u64>,
    /// Bytes of memory the compile may use, if the user said so.
    pub max_memory: Option<u64>,
    /// Feature levels of the target to make code for.
    pub levels: Levels,
    /// Chips to spread the program over, if the user said so.
    pub chips: Option<u32>,
}

impl Settings {
    /// From the command line, and what the target would have. Options that contradict each other or the target are reported, all at once.
    pub fn new(shape: &Shape, target: &str, capabilities: &Capabilities) -> Result<Self> {
        let codec = named(shape).unwrap_or(capabilities.default_codec);
        let mut problems = Diagnostics::new();
        let mut refuse = |option: &str, what: String, help: String| {
            problems.push(Diagnostic::error(Code::BadOption, what).at("option", option).help(help));
        };
        if !capabilities.codecs.contains(&codec) {
            let known: Vec<String> = capabilities.codecs.iter().map(ToString::to_string).collect();
            let help = format!("it has them for {}", known.join(", "));
            refuse("--codec", format!("target '{target}' has no kernels for codec {codec}"), help);
        }
        let (wanted, pairs) = (shape.rotate, codec.window().is_some());
        let turns = capabilities.ops.contains(&"hadamard");
        if wanted == Some(Switch::On) && pairs && !turns {
            refuse("--rotate", format!("target '{target}' has no rotation"), "leave it out".to_owned());
        }
        if let Some(chips) = shape.chips.filter(|_| !capabilities.several_chips) {
            refuse(
                "--chips",
                format!("target '{target}' does not spread a model over {chips} chips"),
                "leave it out".to_owned(),
            );
        }
        problems.extend(contradictions(shape, codec));
        let kv_cache = problems.absorb(kv_cache(shape, codec, target, capabilities)).unwrap_or_default();
        let levels = problems.absorb(levels(&shape.levels, target, capabilities)).unwrap_or(Levels::ALL);
        let rotate = wanted.map_or(pairs && turns, |switch| switch == Switch::On);
        let weights = WeightOptions { codec, group: group(shape), rotate, activations: capabilities.activations, kv_cache };
        let Shape { context, max_memory, chips, .. } = *shape;
        problems.into_result(Self { weights, context, max_memory, levels, chips })
    }

    /// What a target is asked for: this program, in the levels and on the chips of these settings.
    pub fn request<'a>(&self, Program { graph, params }: &'a Program, prefix: &'a str, context: u64) -> Request<'a> {
        Request { graph, params, prefix, context, levels: self.levels, chips: self.chips }
    }

    /// Nothing rounded, nothing rotated: parameters as the file has them.
    pub fn float() -> Self {
        let weights = WeightOptions {
            codec: Codec::F32,
            group: Group::Row,
            rotate: false,
            activations: Activations::Float,
            kv_cache: CacheDtype::F32,
        };
        Self { weights, context: None, max_memory: None, levels: Levels::ALL, chips: None }
    }

    /// Options that contradict each other whatever the target is: all that can be said without one.
    pub fn contradictions(shape: &Shape) -> Diagnostics {
        named(shape).map_or_else(Diagnostics::new, |codec| contradictions(shape, codec))
    }

    /// For the manifest: what shaped the result, by name.
    pub fn recorded(&self, context: u64) -> BTreeMap<String, String> {
        let WeightOptions { codec, group, rotate, activations, kv_cache } = self.weights;
        let rotate = if rotate { "on" } else { "off" };
        [
            ("activations", activations.name().to_owned()),
            ("codec", codec.to_string()),
            ("group", group.to_string()),
            ("kv-cache-dtype", kv_cache.to_string()),
            ("rotate", rotate.to_owned()),
            ("context", context.to_string()),
        ]
        .into_iter()
        .chain(self.chips.map(|chips| ("chips", chips.to_string())))
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }

    /// The inverse of [`Self::recorded`]; `None` if something is missing or unknown.
    pub fn from_recorded(options: &BTreeMap<String, String>) -> Option<Self> {
        let get = |name: &str| options.get(name).map(String::as_str);
        let rotate = match get("rotate")? {
            "on" => true,
            "off" => false,
            _ => return None,
        };
        let weights = WeightOptions {
            codec: get("codec")?.parse().ok()?,
            group: get("group")?.parse().ok()?,
            rotate,
            activations: get("activations")?.parse().ok()?,
            // Bundles that do not say it are older than the choice.
            kv_cache: get("kv-cache-dtype").map_or(Some(CacheDtype::F32), |name| name.parse().ok())?,
        };
        let context = Some(get("context")?.parse().ok()?);
        Some(Self { weights, context, max_memory: None, levels: Levels::ALL, chips: None })
    }
}

/// The codec the user names, if it is left to nobody else.
fn named(shape: &Shape) -> Option<Codec> {
    let parse = |word: &str| word.parse().unwrap_or_else(|e| unreachable!("the command line takes known codecs only: {e}"));
    (shape.codec != "auto").then(|| parse(&shape.codec))
}

/// The element type of the KV cache: what the user names. Otherwise, of those that the target has, half precision beside weights that are
/// rounded far more coarsely, and single precision beside those that are not.
fn kv_cache(shape: &Shape, codec: Codec, target: &str, capabilities: &Capabilities) -> Result<CacheDtype> {
    let known = &capabilities.kv_cache;
    let parse =
        |name: &String| name.parse().unwrap_or_else(|()| unreachable!("the command line takes known element types only"));
    let Some(wanted) = shape.kv_cache_dtype.as_ref().map(parse) else {
        let best = if codec.has_scales() { CacheDtype::F16 } else { CacheDtype::F32 };
        return Ok(known.iter().copied().find(|dtype| *dtype == best).or(known.first().copied()).unwrap_or_default());
    };
    if known.contains(&wanted) {
        return Ok(wanted);
    }
    let known: Vec<&str> = known.iter().map(|dtype| dtype.name()).collect();
    Err(Diagnostic::error(Code::BadOption, format!("target '{target}' has no KV cache in {wanted}"))
        .at("option", "--kv-cache-dtype")
        .help(format!("it has one in {}", known.join(", ")))
        .into())
}

/// The feature levels of some names; all of them where none is named.
fn levels(names: &[String], target: &str, capabilities: &Capabilities) -> Result<Levels> {
    if names.is_empty() {
        return Ok(Levels::ALL);
    }
    let mut problems = Diagnostics::new();
    let mut places = Vec::new();
    for name in names {
        let level = if name == "native" { capabilities.native } else { Some(name.as_str()) };
        match level.and_then(|level| capabilities.levels.iter().position(|known| *known == level)) {
            Some(place) => places.push(place),
            None => problems.push(
                Diagnostic::error(Code::BadOption, format!("target '{target}' has no level {name}"))
                    .at("option", "--levels")
                    .help(format!("it has {}", capabilities.levels.join(", "))),
            ),
        }
    }
    problems.into_result(Levels::of(places))
}

fn group(shape: &Shape) -> Group {
    match shape.group {
        GroupChoice::Row => Group::Row,
        GroupChoice::Columns64 => Group::Columns(64),
        GroupChoice::Columns128 => Group::Columns(128),
    }
}

fn contradictions(shape: &Shape, codec: Codec) -> Diagnostics {
    let senseless = |option: &str, why: &str| {
        Diagnostic::error(Code::BadOption, format!("{option} has no meaning for codec {codec}")).at("option", option).help(why)
    };
    let mut problems = Diagnostics::new();
    if group(shape) != Group::Row && !codec.has_scales() {
        problems.push(senseless("--group", "only codecs with scales have groups: split, w7 to w12, a11, q8"));
    }
    if shape.rotate == Some(Switch::On) && codec.window().is_none() {
        problems.push(senseless("--rotate", "rotation serves the 3.5-bit codecs: split, w7 to w12, a11"));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(codec: &str, rotate: Option<Switch>, group: GroupChoice) -> Shape {
        let codec = codec.to_owned();
        Shape { codec, rotate, group, kv_cache_dtype: None, levels: vec![], chips: None, context: None, max_memory: None }
    }

    /// A machine of integers that cannot run `w10`.
    fn capabilities() -> Capabilities {
        let codecs = vec![Codec::F32, Codec::Q8, Codec::Split, Codec::W8];
        Capabilities {
            ops: vec!["hadamard"],
            codecs,
            default_codec: Codec::W8,
            activations: Activations::Int8,
            kv_cache: vec![CacheDtype::F32],
            levels: vec!["brass", "wood"],
            native: Some("wood"),
            several_chips: false,
        }
    }

    fn settings(shape: &Shape) -> Result<Settings> {
        Settings::new(shape, "abacus", &capabilities())
    }

    #[test]
    fn rotation_is_on_where_it_helps() {
        let weights = |codec, rotate| settings(&shape(codec, rotate, GroupChoice::Row)).unwrap().weights;
        assert_eq!(
            weights("auto", None),
            WeightOptions {
                codec: Codec::W8,
                group: Group::Row,
                rotate: true,
                activations: Activations::Int8,
                kv_cache: CacheDtype::F32
            }
        );
        assert!(!weights("w8", Some(Switch::Off)).rotate);
        assert!(!weights("f32", None).rotate);
        assert!(!weights("q8", None).rotate);
    }

    #[test]
    fn contradictions_are_reported_together() {
        let text = settings(&shape("f32", Some(Switch::On), GroupChoice::Columns64)).unwrap_err().to_string();
        assert_eq!(
            text,
            "error[Q35-0303]: --group has no meaning for codec f32\n  at option '--group'\n  \
             help: only codecs with scales have groups: split, w7 to w12, a11, q8\n\
             error[Q35-0303]: --rotate has no meaning for codec f32\n  at option '--rotate'\n  \
             help: rotation serves the 3.5-bit codecs: split, w7 to w12, a11"
        );
    }

    #[test]
    fn a_codec_that_the_target_cannot_run_is_told() {
        let text = settings(&shape("w10", None, GroupChoice::Row)).unwrap_err().to_string();
        assert_eq!(
            text,
            "error[Q35-0303]: target 'abacus' has no kernels for codec w10\n  at option '--codec'\n  \
             help: it has them for f32, q8, split, w8"
        );
    }

    #[test]
    fn the_cache_is_in_an_element_type_that_the_target_has() {
        let asked = |name: &str| Shape { kv_cache_dtype: Some(name.to_owned()), ..shape("w8", None, GroupChoice::Row) };
        assert_eq!(settings(&asked("f32")).unwrap().weights.kv_cache, CacheDtype::F32);
        assert_eq!(
            settings(&asked("f16")).unwrap_err().to_string(),
            "error[Q35-0303]: target 'abacus' has no KV cache in f16\n  at option '--kv-cache-dtype'\n  help: it has one in f32"
        );
        let both = Capabilities { kv_cache: CacheDtype::ALL.to_vec(), ..capabilities() };
        let unsaid = |codec, capabilities: &Capabilities| {
            Settings::new(&shape(codec, None, GroupChoice::Row), "abacus", capabilities).unwrap().weights.kv_cache
        };
        assert_eq!([unsaid("w8", &both), unsaid("f32", &both)], [CacheDtype::F16, CacheDtype::F32]);
        assert_eq!(unsaid("w8", &capabilities()), CacheDtype::F32);
        let settings = Settings::new(&asked("f16"), "abacus", &both).unwrap();
        let recorded = settings.recorded(1024);
        assert_eq!(recorded["kv-cache-dtype"], "f16");
        assert_eq!(Settings::from_recorded(&recorded).unwrap().weights, settings.weights);
    }

    #[test]
    fn only_some_targets_have_several_chips() {
        let with = |several_chips| {
            let shape = Shape { chips: Some(3), ..shape("w8", None, GroupChoice::Row) };
            Settings::new(&shape, "abacus", &Capabilities { several_chips, ..capabilities() })
        };
        let settings = with(true).unwrap();
        assert_eq!((settings.chips, settings.recorded(5)["chips"].as_str()), (Some(3), "3"));
        assert_eq!(
            with(false).unwrap_err().to_string(),
            "error[Q35-0303]: target 'abacus' does not spread a model over 3 chips\n  at option '--chips'\n  help: leave it out"
        );
    }

    #[test]
    fn levels_are_those_that_the_target_has() {
        let chosen = |names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            settings(&Shape { levels: names, ..shape("w8", None, GroupChoice::Row) })
        };
        let all = |names: &[&str]| chosen(names).unwrap().levels.among(capabilities().levels).collect::<Vec<_>>();
        assert_eq!((all(&[]), all(&["native"]), all(&["wood", "brass"])), (all(&["brass", "wood"]), vec!["wood"], all(&[])));
        assert_eq!(
            chosen(&["steel", "glass"]).unwrap_err().to_string(),
            "error[Q35-0303]: target 'abacus' has no level steel\n  at option '--levels'\n  help: it has brass, wood\n\
             error[Q35-0303]: target 'abacus' has no level glass\n  at option '--levels'\n  help: it has brass, wood"
        );
    }

    #[test]
    fn what_is_recorded_has_no_paths_and_no_times() {
        let settings: Settings = settings(&shape("split", None, GroupChoice::Columns128)).unwrap();
        assert_eq!(Settings::from_recorded(&settings.recorded(1024)).unwrap().weights, settings.weights);
        let text = format!("{:?}", settings.recorded(1024));
        assert_eq!(
            text,
            r#"{"activations": "int8", "codec": "split", "context": "1024", "group": "128", "kv-cache-dtype": "f32", "rotate": "on"}"#
        );
    }
}
