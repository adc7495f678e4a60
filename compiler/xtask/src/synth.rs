//! Checkpoints of any size that nobody trained: `cargo xtask synth --shape tinyllama-1.1b FOLDER`.
//!
//! A shape is a `config.json`, one of those in the tree or any other; flags change its fields. The weights are Gaussian with variances that keep
//! activations near 1, so that every kernel computes on ordinary numbers; the text that comes out means nothing. They are written as they are
//! made, by all cores; the same configuration, type and seed give the same bytes on every machine.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};
use q35_console::{Progress, size};
use q35_import::synth::{Checkpoint, Fill, SHAPES, Stored, Written, shape};
use serde_json::{Map, Value};
use std::fs;
use std::path::{Path, PathBuf};

/// Flags that set a number of the configuration: name, the fields that families call it, meaning.
const NUMBERS: [(&str, &[&str], &str); 11] = [
    ("layers", &["num_hidden_layers"], "Layers"),
    ("hidden", &["hidden_size"], "Width of the residual stream"),
    ("ffn", &["intermediate_size"], "Width inside a feed-forward part"),
    ("heads", &["num_attention_heads"], "Query heads"),
    ("kv-heads", &["num_key_value_heads"], "Key and value heads"),
    ("head-dim", &["head_dim"], "Width of a head"),
    ("experts", &["num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"], "Experts of a layer"),
    ("active-experts", &["num_experts_per_tok", "moe_k"], "Experts that a token goes to"),
    ("expert-ffn", &["moe_intermediate_size"], "Width inside an expert, where it differs from the dense layers'"),
    ("vocab", &["vocab_size"], "Tokens of the vocabulary"),
    ("context", &["max_position_embeddings"], "Longest context"),
];

/// How weights may be stored.
const TYPES: [(&str, Stored); 3] = [("bf16", Stored::Bf16), ("f16", Stored::F16), ("fp8", Stored::Fp8)];

type Config = Map<String, Value>;

/// What was asked for: a table of flags gives arguments no type of their own.
#[derive(Debug)]
pub(crate) struct Options(ArgMatches);

impl FromArgMatches for Options {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(matches.clone()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0 = matches.clone();
        Ok(())
    }
}

impl Args for Options {
    fn augment_args(command: Command) -> Command {
        arguments(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        arguments(command)
    }
}

/// The chore.
pub(crate) fn run(Options(matches): &Options) -> Result<(), String> {
    let folder: &PathBuf = matches.get_one("folder").ok_or("no folder")?;
    let config = Value::Object(configure(matches)?).to_string();
    let number = |name| matches.get_one::<u64>(name).copied();
    let fill = if matches.get_flag("sparse") { Fill::Zeros } else { Fill::Seeded(number("seed").unwrap_or_default()) };
    let stored = matches.get_one("dtype").and_then(|name: &String| TYPES.iter().find(|(known, _)| known == name));
    let stored = stored.map_or(Stored::Bf16, |(_, stored)| *stored);
    let shard = number("shard").unwrap_or(u64::MAX);
    let Written { parameters, bytes, files } = write(&Checkpoint { config: &config, stored, fill, shard }, folder)?;
    println!("{}: {:.3} billion parameters, {} in {files} files", folder.display(), parameters as f64 / 1e9, size::show(bytes));
    Ok(())
}

fn arguments(command: Command) -> Command {
    let names = SHAPES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let word = |name: &'static str, value: &'static str, help: String| Arg::new(name).long(name).value_name(value).help(help);
    let numbers = NUMBERS.map(|(name, _, help)| word(name, "N", help.into()).value_parser(value_parser!(u64)));
    let set = "Any other field of the configuration, such as --set rope_theta=1e6; may be given again".to_owned();
    command
        .arg(Arg::new("folder").required(true).value_name("FOLDER").value_parser(value_parser!(PathBuf)).help("Folder to make"))
        .arg(word("shape", "NAME", format!("One of {names}; or a config.json")).default_value(SHAPES[0].0))
        .args(numbers)
        .arg(word("set", "FIELD=VALUE", set).action(ArgAction::Append))
        .arg(
            word("dtype", "TYPE", "How weights are stored".into())
                .value_parser(TYPES.map(|(name, _)| name))
                .default_value("bf16"),
        )
        .arg(word("seed", "N", "Start of the random numbers".into()).value_parser(value_parser!(u64)).default_value("0"))
        .arg(
            word("shard", "SIZE", "Size after which another file begins".into()).value_parser(size::parse).default_value("5GB"),
        )
        .arg(
            Arg::new("sparse")
                .long("sparse")
                .action(ArgAction::SetTrue)
                .help("Write headers and holes: all weights are 0 and take no disk"),
        )
}

/// The configuration that was asked for.
fn configure(matches: &ArgMatches) -> Result<Config, String> {
    let name: &String = matches.get_one("shape").ok_or("no shape")?;
    let text = match shape(name) {
        Some(text) => text.to_owned(),
        None if Path::new(name).is_file() => fs::read_to_string(name).map_err(|e| format!("{name} cannot be read: {e}"))?,
        None => {
            let known = SHAPES.map(|(name, _)| name).join(", ");
            return Err(format!("'{name}' is no file and no known shape; known are {known}"));
        }
    };
    let mut config: Config = serde_json::from_str(&text).map_err(|e| format!("{name}: {e}"))?;
    for (flag, fields, _) in NUMBERS {
        let Some(number) = matches.get_one::<u64>(flag) else { continue };
        let field = match fields {
            [field] => field,
            _ => fields
                .iter()
                .find(|field| config.contains_key(**field))
                .ok_or_else(|| format!("--{flag}: the shape has none of {}", fields.join(", ")))?,
        };
        config.insert((*field).to_owned(), (*number).into());
    }
    for setting in matches.get_many::<String>("set").into_iter().flatten() {
        let (field, value) = setting.split_once('=').ok_or_else(|| format!("--set {setting}: write FIELD=VALUE"))?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        config.insert(field.to_owned(), value);
    }
    Ok(config)
}

/// Writes a folder that appears when it is complete.
pub(crate) fn write(checkpoint: &Checkpoint, folder: &Path) -> Result<Written, String> {
    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(format!("{} is not empty", folder.display()));
    }
    let name = folder.file_name().ok_or_else(|| format!("{} is no name of a folder", folder.display()))?;
    let partial = folder.with_file_name(format!("{}.partial-{}", name.to_string_lossy(), std::process::id()));
    let mut progress = Progress::default();
    let written = fs::create_dir_all(&partial)
        .and_then(|()| {
            checkpoint.write(&partial, |done, total| {
                if checkpoint.fill != Fill::Zeros {
                    progress.at(done >> 20, total >> 20, "MiB written");
                }
            })
        })
        .and_then(|written| fs::rename(&partial, folder).map(|()| written));
    drop(progress);
    written.map_err(|e| {
        let _ = fs::remove_dir_all(&partial);
        format!("{}: {e}", folder.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(line: &str) -> Result<Config, String> {
        let matches = arguments(Command::new("synth").no_binary_name(true))
            .try_get_matches_from(line.split_whitespace())
            .map_err(|e| e.to_string())?;
        configure(&matches)
    }

    #[test]
    fn flags_change_the_fields_of_a_shape() {
        let config =
            configured("x --shape mixtral-8x7b --layers 2 --experts 4 --set rope_theta=1e4 --set hidden_act=gelu").unwrap();
        assert_eq!(config["num_hidden_layers"], 2);
        assert_eq!(config["num_local_experts"], 4);
        assert_eq!((&config["rope_theta"], &config["hidden_act"]), (&Value::from(1e4), &Value::from("gelu")));
        assert_eq!(config["hidden_size"], 4096);
        assert_eq!(configured("x --shape qwen3-30b-a3b --experts 16").unwrap()["num_experts"], 16);
    }

    #[test]
    fn what_a_shape_has_not_is_said() {
        let wrong = configured("x --shape llama-8b --experts 4").unwrap_err();
        assert_eq!(wrong, "--experts: the shape has none of num_local_experts, num_experts, n_routed_experts, moe_num_experts");
        assert!(
            configured("x --shape gpt-5")
                .unwrap_err()
                .starts_with("'gpt-5' is no file and no known shape; known are tinyllama")
        );
        assert!(configured("x --set a").unwrap_err().contains("write FIELD=VALUE"));
    }

    #[test]
    fn a_folder_appears_when_it_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("model");
        let checkpoint = |config| Checkpoint { config, stored: Stored::Bf16, fill: Fill::Zeros, shard: 5 << 30 };
        assert!(
            write(&checkpoint(r#"{"model_type": "llama"}"#), &folder).unwrap_err().contains("num_hidden_layers is not given")
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        write(&checkpoint(SHAPES[0].1), &folder).unwrap();
        assert!(q35_import::open(&folder).is_ok());
        assert!(write(&checkpoint(SHAPES[0].1), &folder).unwrap_err().ends_with("is not empty"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
