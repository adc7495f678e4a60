//! `q35c export`: a model, as it is or as a bundle has it, for other libraries.

use crate::cli::Export;
use crate::export;
use q35_diag::{Code, Diagnostic, Result};
use std::path::Path;

/// Exports a model.
pub fn run(options: &Export) -> Result<String> {
    let [form, folder] = &options.to[..] else { unreachable!("the command line takes two words") };
    if form != "hf" {
        return Err(Diagnostic::error(Code::BadOption, format!("form '{form}' is not known"))
            .at("option", "--to")
            .help("known forms: hf, a Hugging Face checkpoint")
            .into());
    }
    let exported = export::run(&options.model, options.bundle.as_deref(), Path::new(folder))?;
    if options.json {
        return super::json(&exported);
    }
    Ok(format!("{}: {} tensors, {} numbers in f32\n", exported.folder, exported.tensors, exported.numbers))
}
