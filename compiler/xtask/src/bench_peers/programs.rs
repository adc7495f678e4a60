//! The peers: their programs, and their files of the model.

use super::contender::{Contender, Engine};
use crate::cache::{Cache, Key};
use crate::{shell, synth};
use q35_import::synth::{Checkpoint, Fill, Stored, shape};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What there is to compare with.
pub(super) struct Peers {
    /// An interpreter with what `requirements.txt` names.
    python: PathBuf,
    /// The folder of that file.
    scripts: PathBuf,
    llama_bench: PathBuf,
    ik_llama_bench: Option<PathBuf>,
}

/// A checkpoint of a shape in f16, which every side can read; written if it is not there.
pub(super) fn checkpoint(name: &str, cache: &Cache) -> Result<PathBuf, String> {
    let config = shape(name).ok_or_else(|| format!("'{name}' is no known shape"))?;
    cache.file(&Key::default().text("synth f16 0").text(config), "hf", &format!("writing a checkpoint of {name}"), |out| {
        synth::write(&Checkpoint { config, stored: Stored::F16, fill: Fill::Seeded(0), shard: u64::MAX }, out).map(drop)
    })
}

/// What `gguf_bytes.py` says.
#[derive(Deserialize)]
struct Bytes {
    decode_bytes: u64,
}

impl Peers {
    /// Makes the Python environment and, if no program is given, builds llama.cpp: once, for some minutes.
    pub(super) fn find(root: &Path, cache: &Cache, llama: Option<&Path>, ik: Option<&Path>) -> Result<Self, String> {
        let scripts = root.join("compiler/xtask/peers/speed");
        let key = Key::default().path(&scripts.join("build.sh"))?.path(&scripts.join("requirements.txt"))?;
        let folder = cache.place(&key, "peers");
        let mut make = Command::new("bash");
        make.arg(scripts.join("build.sh")).arg(&folder).arg(if llama.is_some() { "environment" } else { "all" });
        shell::run(&mut make)?;
        let llama_bench = llama.map_or_else(|| folder.join("llama.cpp/bin/llama-bench"), Path::to_owned);
        for program in [Some(llama_bench.as_path()), ik].into_iter().flatten() {
            if !program.is_file() {
                return Err(format!("{} is not there", program.display()));
            }
        }
        Ok(Self { python: folder.join("venv/bin/python"), scripts, llama_bench, ik_llama_bench: ik.map(Path::to_owned) })
    }

    /// llama.cpp's quantizer.
    pub(super) fn quantizer(&self) -> PathBuf {
        self.llama_bench.with_file_name("llama-quantize")
    }

    /// The checkpoint in llama.cpp's format, unrounded, and the key of what is made of it.
    pub(super) fn source(&self, checkpoint: &Path, cache: &Cache) -> Result<(PathBuf, Key), String> {
        let key = Key::default().text(&checkpoint.to_string_lossy()).path(&self.scripts.join("../convert.py"))?;
        let file = cache.file(&key, "gguf", "converting the checkpoint to GGUF", |out| {
            shell::run(self.script("../convert.py").arg(checkpoint).arg(out)).map(|_| ())
        })?;
        Ok((file, key))
    }

    /// All of them, each with all formats.
    pub(super) fn contenders(
        &self,
        checkpoint: &Path,
        types: &[String],
        onnxruntime: bool,
        cache: &Cache,
    ) -> Result<Vec<Contender>, String> {
        let (source, key) = self.source(checkpoint, cache)?;
        let quantize = self.quantizer();
        let mut contenders = Vec::new();
        for kind in types {
            let key = key.clone().path(&quantize)?.text(kind);
            let file = cache.file(&key, "gguf", &format!("llama.cpp's {kind}"), |out| {
                // Without an importance matrix, which changes no speed.
                shell::run(Command::new(&quantize).arg(&source).arg(out).arg(kind)).map(|_| ())
            })?;
            let Bytes { decode_bytes } = shell::json(self.script("gguf_bytes.py").arg(&file))?;
            let mut add = |engine, program: &Path| {
                contenders.push(Contender::peer(engine, kind, decode_bytes, program.to_owned(), file.clone())?);
                Ok::<(), String>(())
            };
            add(Engine::Llama, &self.llama_bench)?;
            if let Some(program) = &self.ik_llama_bench {
                add(Engine::Ik, program)?;
                add(Engine::IkRepacked, program)?;
            }
        }
        if onnxruntime {
            contenders.push(self.onnxruntime(checkpoint, cache)?);
        }
        Ok(contenders)
    }

    /// ONNX Runtime with the linear layers in 4 bits, block 32.
    fn onnxruntime(&self, checkpoint: &Path, cache: &Cache) -> Result<Contender, String> {
        let config = checkpoint.join("config.json");
        let key = Key::default().path(&config)?.path(&self.scripts.join("matmul_nbits.py"))?;
        let script = self.scripts.join("matmul_nbits.py");
        let folder = cache.file(&key, "onnx", "ONNX Runtime's 4-bit layers", |out| {
            shell::run(Command::new(&self.python).arg(&script).arg("make").arg(&config).arg(out)).map(|_| ())
        })?;
        let Bytes { decode_bytes } = shell::json(Command::new(&self.python).arg(&script).arg("bytes").arg(&folder))?;
        // The program is started by a file of its own, which knows its interpreter.
        let program = folder.join("bench");
        Contender::peer(Engine::Onnx, "int4, linear layers only", decode_bytes, program, folder)
    }

    fn script(&self, name: &str) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(self.scripts.join(name));
        command
    }
}
